-- wrk: POST the bodies of a file, one a line, in turns: wrk -s post.lua URL -- FILE
-- The last line that is printed is what was counted, as JSON.
local prepared = {}
local turn = 0

function init(arguments)
  for line in io.lines(arguments[1]) do
    prepared[#prepared + 1] = wrk.format("POST", nil, {["Content-Type"] = "application/json"}, line)
  end
end

function request()
  turn = turn % #prepared + 1
  return prepared[turn]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "refused": %d, "broken": %d, "p50": %.6f, "p99": %.6f}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6))
end
