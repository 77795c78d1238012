"""The service on a Ray cluster: an ingress, a search service and encoders that scale apart, each to zero and back.

::

    HTTP --> Serve's proxies --> ingress (the API, the page)
                                   |-- <model>-text    texts -> vectors      the text tower alone
                                   |-- <model>-image   pictures -> vectors   the picture tower alone
                                   |-- search          the index, and for its queries the encoders above
                                   |-- rerank-<model>  cross-encoders
                                   `-- writer          one replica, where records may be added and removed

Only `deployments`, `calls`, `service` and `start` import Ray.
"""
