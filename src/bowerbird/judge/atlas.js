"use strict";
// The map: points on a canvas, cards, a search box, and a list that holds the same for the keyboard.
document.addEventListener("DOMContentLoaded", () => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
  const places = new Uint16Array(bytes(data.places)), texts = new Uint8Array(bytes(data.texts));
  const owners = new Uint32Array(bytes(data.owners)), folder = new Uint32Array(bytes(data.folder));
  const total = owners.length, records = data.names.length, colours = data.colours;
  const xs = new Float32Array(total), ys = new Float32Array(total);
  for (let at = 0; at < total; at++) { xs[at] = places[2 * at] / 65535; ys[at] = 1 - places[2 * at + 1] / 65535; }
  const order = Uint32Array.from({ length: total }, (_, at) => at);
  for (let at = total - 1, state = 1; at > 0; at--) {   // mixed, the same each time, so that neither kind covers the other
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const other = state % (at + 1);
    [order[at], order[other]] = [order[other], order[at]];
  }
  const parts = Array.from({ length: records }, () => []);
  for (let at = 0; at < total; at++) parts[owners[at]].push(at);
  const haystack = data.names.map((name, at) => `${name}\n${data.captions[at]}\n${data.files[at]}`.toLowerCase());

  const canvas = $("canvas"), pen = canvas.getContext("2d"), card = $("card");
  const view = { scale: 1, x: 0.5, y: 0.5 };            // the middle of the view, in the unit square
  const shown = { pictures: true, texts: true, hidden: new Set() };
  let width = 0, height = 0, found = null, hover = -1, pinned = -1, palette = {}, spriteRadius = 0, asked = false, waiting = 0;
  const sprites = new Map();
  let reach = 14;                                       // how near the pointer has to be, in pixels

  // Colours

  const category = (at) => (colours ? colours.values[owners[at]] : -1);
  // What decides the colour of a point, as a small number: a category, or a step of 16 on the scale.
  const kinds = Int8Array.from(owners, (_, at) => colours && colours.scale && category(at) >= 0 ? Math.round(category(at) * 16) : category(at));
  const mix = (low, high, share) => {
    const rgb = (text) => [1, 3, 5].map((from) => parseInt(text.slice(from, from + 2), 16));
    const [a, b] = [rgb(low), rgb(high)];
    return `rgb(${a.map((part, axis) => Math.round(part + (b[axis] - part) * share)).join(" ")})`;
  };
  const readPalette = () => {
    const style = getComputedStyle(document.documentElement);
    const names = ["picture", "text", "none", "ink", "soft", "accent", "mat", "low", "high", "card"];
    for (let at = 0; at <= 10; at++) names.push(`c${at}`);
    palette = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    sprites.clear();
  };
  const colourOf = (at) => {
    if (!colours) return texts[at] ? palette.text : palette.picture;
    const value = category(at);
    if (value < 0) return palette.none;
    return colours.scale ? mix(palette.low, palette.high, kinds[at] / 16) : palette[`c${value}`];
  };
  const isShown = (at) => (texts[at] ? shown.texts : shown.pictures)
    && !(colours && !colours.scale && shown.hidden.has(category(at)));

  // Drawing

  const size = () => Math.min(width, height) * 0.94 * view.scale;
  const toX = (at) => (xs[at] - view.x) * size() + width / 2;
  const toY = (at) => (ys[at] - view.y) * size() + height / 2;
  const radius = () => Math.min(7, (total > 20000 ? 1.6 : total > 4000 ? 2.2 : total > 600 ? 3 : 4.2) * Math.pow(view.scale, 0.35));
  const shape = (context, text, x, y, r) => {
    context.beginPath();
    if (text) context.rect(x - r * 0.88, y - r * 0.88, r * 1.76, r * 1.76); else context.arc(x, y, r, 0, 7);
  };
  const sprite = (at, r, ratio) => {                    // a point drawn once, then copied
    const key = texts[at] + 2 * (kinds[at] + 1);
    let drawn = sprites.get(key);
    if (!drawn) {
      drawn = document.createElement("canvas");
      drawn.width = drawn.height = Math.ceil((2 * r + 2) * ratio);
      const context = drawn.getContext("2d");
      context.scale(ratio, ratio);
      context.fillStyle = colourOf(at);
      shape(context, texts[at], r + 1, r + 1, r);
      context.fill();
      sprites.set(key, drawn);
    }
    return drawn;
  };
  const copy = (seen, r, ratio) => {
    if (r !== spriteRadius) { sprites.clear(); spriteRadius = r; }
    for (const at of seen) {
      const drawn = sprite(at, r, ratio);
      pen.drawImage(drawn, toX(at) - r - 1, toY(at) - r - 1, drawn.width / ratio, drawn.height / ratio);
    }
  };
  // Very many points are set dot by dot: without a graphics card that is a hundred times as fast as drawing them.
  const rgb = (text) => {
    const parts = text.startsWith("#") ? [1, 3, 5].map((from) => parseInt(text.slice(from, from + 2), 16)) : text.match(/\d+/g).map(Number);
    return parts[0] | parts[1] << 8 | parts[2] << 16;
  };
  const dots = (layers, r, ratio) => {
    const [wide, high] = [canvas.width, canvas.height], image = pen.createImageData(wide, high);
    const target = new Uint32Array(image.data.buffer), reachOf = Math.max(1, Math.round(r * ratio)), known = new Map();
    const scale = size() * ratio;
    for (const [seen, alpha] of layers) {
      for (const at of seen) {
        const key = texts[at] + 2 * (kinds[at] + 1);
        if (!known.has(key)) known.set(key, rgb(colourOf(at)));
        const ink = known.get(key) | Math.round(alpha * 255) << 24;
        const x = Math.round((xs[at] - view.x) * scale + wide / 2), y = Math.round((ys[at] - view.y) * scale + high / 2);
        for (let down = -reachOf; down <= reachOf; down++) {
          const line = y + down;
          if (line < 0 || line >= high) continue;
          const half = texts[at] ? reachOf - 1 : Math.floor(Math.sqrt(reachOf * reachOf + 0.5 - down * down));
          if (texts[at] && Math.abs(down) > reachOf - 1) continue;
          for (let dot = Math.max(0, x - half); dot <= Math.min(wide - 1, x + half); dot++) target[line * wide + dot] = ink;
        }
      }
    }
    pen.putImageData(image, 0, 0);
  };
  const images = new Map();
  const imageOf = (record) => {
    if (!(record in data.pictures)) return null;
    let image = images.get(record);
    if (!image) {
      image = new Image();
      image.onload = draw;
      image.src = `data:image/jpeg;base64,${data.pictures[record]}`;
      images.set(record, image);
    }
    return image;
  };
  const inView = () => {
    const half = [width / 2 / size(), height / 2 / size()], seen = [];
    for (const at of order) {
      if (Math.abs(xs[at] - view.x) < half[0] && Math.abs(ys[at] - view.y) < half[1] && isShown(at)) seen.push(at);
    }
    return seen;
  };
  const outline = (at, colour) => {
    pen.strokeStyle = colour; pen.lineWidth = 2.5;
    shape(pen, texts[at], toX(at), toY(at), radius() + 3.5); pen.stroke();
  };
  const paint = () => {
    asked = false;
    const ratio = window.devicePixelRatio || 1, r = radius(), seen = inView();
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const faint = found !== null;
    const layers = faint
      ? [[seen.filter((at) => !found.has(owners[at])), 0.13], [seen.filter((at) => found.has(owners[at])), 0.9]]
      : [[seen, total > 4000 ? 0.8 : 0.9]];
    if (seen.length > 6000) dots(layers, r, ratio);
    else for (const [part, alpha] of layers) { pen.globalAlpha = alpha; copy(part, r, ratio); }
    pen.globalAlpha = 1;
    paintPictures(seen.filter((at) => !texts[at] && owners[at] in data.pictures && !(faint && !found.has(owners[at]))));
    const current = pinned >= 0 ? pinned : hover;
    if (current >= 0) {
      for (const other of parts[owners[current]]) {
        if (other === current || !isShown(other)) continue;
        pen.strokeStyle = palette.soft; pen.lineWidth = 1.5; pen.setLineDash([4, 3]);
        pen.beginPath(); pen.moveTo(toX(current), toY(current)); pen.lineTo(toX(other), toY(other)); pen.stroke();
        pen.setLineDash([]); outline(other, palette.soft);
      }
      outline(current, palette.ink);
      if (hover >= 0 && hover !== current) outline(hover, palette.soft);
    }
    placeCard();
    clearTimeout(waiting);                              // of 50,000 points, sorting takes longer than drawing
    waiting = setTimeout(list, 120, seen);
  };
  const draw = () => { if (!asked) { asked = true; requestAnimationFrame(paint); } };
  const paintPictures = (seen) => {                      // where there is room, pictures show themselves
    reach = 14;
    if (seen.length > 160 || view.scale <= 1.01 && seen.length > 24) return;
    const side = Math.max(28, Math.min(72, Math.sqrt(width * height / (seen.length || 1)) * 0.42));
    reach = side / 2;
    for (const at of seen) {
      const image = imageOf(owners[at]);
      if (!image || !image.complete || !image.naturalWidth) continue;
      const part = side / Math.max(image.naturalWidth, image.naturalHeight);
      const [w, h] = [image.naturalWidth * part, image.naturalHeight * part];
      const [x, y] = [toX(at) - w / 2, toY(at) - h / 2];
      pen.fillStyle = colourOf(at);
      pen.fillRect(x - 2, y - 2, w + 4, h + 4);
      pen.drawImage(image, x, y, w, h);
    }
  };

  // The card

  const mark = (at, colour = colourOf(at)) => {
    const drawn = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    drawn.setAttribute("viewBox", "0 0 12 12"); drawn.setAttribute("aria-hidden", "true");
    const inner = document.createElementNS(drawn.namespaceURI, texts[at] ? "rect" : "circle");
    const facts = texts[at] ? { x: 1, y: 1, width: 10, height: 10 } : { cx: 6, cy: 6, r: 5.5 };
    for (const [name, value] of Object.entries({ ...facts, fill: colour })) inner.setAttribute(name, value);
    drawn.append(inner);
    return drawn;
  };
  const element = (tag, kind, text) => {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    if (text) made.textContent = text;
    return made;
  };
  const pathOf = (record) => data.files[record] ? `${data.folders[folder[record]]}/${data.files[record]}` : "";
  const linkOf = (record) => {
    const link = data.links[record] || (pathOf(record).startsWith("/")
      ? `file://${pathOf(record).split("/").map(encodeURIComponent).join("/")}` : "");
    return /^(https?:\/\/|file:\/)/i.test(link) ? link : "";
  };
  let carded = "";
  const fillCard = (at) => {
    const key = `${at} ${at === pinned}`;
    if (carded === key) return;
    carded = key;
    const record = owners[at], lines = [];
    const image = imageOf(record);
    if (image) { const copy = image.cloneNode(); copy.alt = ""; lines.push(copy); }
    const what = element("div", "what");
    const value = colours && category(at) >= 0 && !colours.scale ? `, ${colours.name}: ${colours.labels[category(at)]}` : "";
    what.append(mark(at), `${texts[at] ? "text" : "picture"}${value}`);
    lines.push(what, element("strong", "", data.names[record]));
    if (data.captions[record]) lines.push(element("p", "", data.captions[record]));
    if (pathOf(record)) lines.push(element("p", "where", pathOf(record)));
    if (linkOf(record)) {
      const link = element("a", "", "Open the original");
      link.href = linkOf(record); link.target = "_blank"; link.rel = "noopener noreferrer";
      lines.push(link);
    }
    const shut = element("button", "shut", "×");
    shut.type = "button"; shut.setAttribute("aria-label", "Close"); shut.addEventListener("click", () => pin(-1));
    card.replaceChildren(...lines, shut);
    card.classList.toggle("pinned", at === pinned);
  };
  const placeCard = () => {
    const at = pinned >= 0 ? pinned : hover;
    card.hidden = at < 0;
    if (at < 0) { carded = ""; return; }
    fillCard(at);
    const [x, y, gap] = [toX(at), toY(at), 16];
    const left = x + gap + card.offsetWidth < width ? x + gap : x - gap - card.offsetWidth;
    const top = y - card.offsetHeight / 2;
    // Set through the object model: the page's policy refuses style attributes only.
    card.style.left = `${Math.max(8, Math.min(width - card.offsetWidth - 8, left))}px`;
    card.style.top = `${Math.max(8, Math.min(height - card.offsetHeight - 8, top))}px`;
  };
  const pin = (at) => { pinned = at; hover = -1; draw(); };

  // The list

  const SHOWN = 60;
  let listed = "";
  const list = (seen) => {
    const distance = (at) => (xs[at] - view.x) ** 2 + (ys[at] - view.y) ** 2;
    const wanted = found === null ? seen : seen.filter((at) => found.has(owners[at]));
    const firsts = new Map();
    for (const at of wanted) if (!firsts.has(owners[at])) firsts.set(owners[at], at);
    const near = [...firsts.values()].sort((a, b) => distance(a) - distance(b)).slice(0, SHOWN);
    const number = firsts.size.toLocaleString("en");
    const of = found === null ? "in view" : `in view ${firsts.size === 1 ? "matches" : "match"}`;
    $("count").textContent = `${number} ${firsts.size === 1 ? "record" : "records"} ${of}`
      + (firsts.size > SHOWN ? `; the ${SHOWN} nearest to the middle` : "");
    const key = near.join(",");
    if (key === listed || $("list").contains(document.activeElement)) { current(); return; }
    listed = key;
    $("list").replaceChildren(...near.map((at) => {
      const item = document.createElement("li"), button = element("button"), both = element("span", "both");
      const record = owners[at], image = imageOf(record);
      button.type = "button"; button.dataset.at = at;
      if (image) { const copy = image.cloneNode(); copy.alt = ""; button.append(copy); } else {
        const blank = element("span", "blank"); blank.append(mark(at)); button.append(blank);
      }
      both.append(element("span", "line", data.names[record]));
      if (data.captions[record]) both.append(element("span", "line more", data.captions[record]));
      button.append(both); item.append(button);
      return item;
    }));
    current();
  };
  const current = () => {
    for (const button of $("list").querySelectorAll("button")) {
      if (Number(button.dataset.at) === pinned) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  };
  $("list").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) pin(Number(button.dataset.at));
  });
  for (const kind of ["focusin", "pointerover"]) {
    $("list").addEventListener(kind, (event) => {
      const button = event.target.closest("button");
      if (button) { hover = Number(button.dataset.at); draw(); }
    });
  }
  for (const kind of ["focusout", "pointerleave"]) $("list").addEventListener(kind, () => { hover = -1; draw(); });

  // Moving

  const nearest = (x, y) => {
    let best = -1, least = reach ** 2;
    for (const at of inView()) {
      const apart = (toX(at) - x) ** 2 + (toY(at) - y) ** 2;
      if (apart < least && !(found !== null && !found.has(owners[at]))) { least = apart; best = at; }
    }
    return best;
  };
  const bounded = () => {
    view.scale = Math.max(0.5, Math.min(400, view.scale));
    view.x = Math.max(0, Math.min(1, view.x)); view.y = Math.max(0, Math.min(1, view.y));
    draw();
  };
  const zoom = (factor, x = width / 2, y = height / 2) => {
    const before = size();
    const [px, py] = [view.x + (x - width / 2) / before, view.y + (y - height / 2) / before];
    view.scale = Math.max(0.5, Math.min(400, view.scale * factor));
    view.x = px - (x - width / 2) / size(); view.y = py - (y - height / 2) / size();
    bounded();
  };
  const fit = () => { Object.assign(view, { scale: 1, x: 0.5, y: 0.5 }); draw(); };
  const pointers = new Map();
  let moved = 0;
  const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.addEventListener("pointerdown", (event) => {
    if (pointers.size === 0) moved = 0;
    pointers.set(event.pointerId, at(event));
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = at(event), before = pointers.get(event.pointerId);
    if (!before) {
      const over = nearest(...now);
      canvas.classList.toggle("points", over >= 0);
      if (over !== hover) { hover = over; draw(); }
      return;
    }
    moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (pointers.size === 2) {
      const [other] = [...pointers.entries()].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const apart = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]);
      zoom(apart(now) / Math.max(apart(before), 1), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    } else if (moved > 4) {
      canvas.classList.add("drags");
      view.x -= (now[0] - before[0]) / size(); view.y -= (now[1] - before[1]) / size();
      bounded();
    }
    pointers.set(event.pointerId, now);
  });
  const lift = (event) => {
    const had = pointers.delete(event.pointerId);
    canvas.classList.remove("drags");
    if (had && moved <= 4 && event.type === "pointerup") pin(nearest(...at(event)));
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", () => { if (!pointers.size && hover >= 0) { hover = -1; draw(); } });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 18 : 1;
    zoom(Math.exp(-event.deltaY * lines * 0.0016), ...at(event));
  }, { passive: false });
  canvas.addEventListener("dblclick", (event) => zoom(2, ...at(event)));
  canvas.addEventListener("keydown", (event) => {
    const step = 60 / size();
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key in moves) { view.x += moves[event.key][0]; view.y += moves[event.key][1]; bounded(); }
    else if (event.key === "+" || event.key === "=") zoom(1.5);
    else if (event.key === "-") zoom(1 / 1.5);
    else if (event.key === "0") fit();
    else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && pinned >= 0) pin(-1); });
  $("in").addEventListener("click", () => zoom(1.6));
  $("out").addEventListener("click", () => zoom(1 / 1.6));
  $("fit").addEventListener("click", fit);

  // Search and legend

  $("find").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = words.length ? new Set() : null;
    if (found) for (let record = 0; record < records; record++) {
      if (words.every((word) => haystack[record].includes(word))) found.add(record);
    }
    draw();
  });
  const chip = (label, example, pressed, toggle, colour) => {
    const button = element("button", "chip"), name = document.createElement("bdi");
    name.textContent = label; button.type = "button"; button.title = label;
    button.setAttribute("aria-pressed", String(pressed()));
    if (example >= 0) button.append(mark(example, colour));
    button.append(name);
    button.addEventListener("click", () => { toggle(); button.setAttribute("aria-pressed", String(pressed())); draw(); });
    return button;
  };
  const legend = () => {
    const made = [], first = (test) => owners.findIndex((_, at) => test(at));
    for (const [kind, test] of [["pictures", (at) => !texts[at]], ["texts", (at) => texts[at]]]) {
      const example = first(test);
      if (example < 0) continue;
      const colour = colours ? palette.soft : colourOf(example);  // coloured by an attribute, they differ in shape alone
      const toggle = () => { shown[kind] = !shown[kind]; };
      made.push(chip(kind, example, () => shown[kind], toggle, colour));
    }
    if (colours) made.push(element("span", "by", `by ${colours.name}:`));
    if (colours && colours.scale) {
      const ramp = element("span", "ramp"), drawn = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      drawn.setAttribute("viewBox", "0 0 17 1"); drawn.setAttribute("preserveAspectRatio", "none"); drawn.setAttribute("aria-hidden", "true");
      drawn.setAttribute("shape-rendering", "crispEdges");
      for (let step = 0; step <= 16; step++) {
        const part = document.createElementNS(drawn.namespaceURI, "rect");
        const facts = { x: step, y: 0, width: 1, height: 1, fill: mix(palette.low, palette.high, step / 16) };
        for (const [name, value] of Object.entries(facts)) part.setAttribute(name, value);
        drawn.append(part);
      }
      ramp.append(colours.labels[0], drawn, colours.labels[2]);
      ramp.title = `The middle is ${colours.labels[1]}`;
      made.push(ramp);
    } else if (colours) {
      const toggle = (value) => () => { if (!shown.hidden.delete(value)) shown.hidden.add(value); };
      colours.labels.forEach((label, value) => {
        made.push(chip(label, first((at) => category(at) === value), () => !shown.hidden.has(value), toggle(value)));
      });
      const none = first((at) => category(at) < 0);
      if (none >= 0) made.push(chip("none", none, () => !shown.hidden.has(-1), toggle(-1)));
    }
    $("legend").replaceChildren(...made);
  };

  const resize = () => {
    const ratio = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
    [width, height] = [box.width, box.height];
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    paint();  // now: a canvas that was given a size is empty
  };
  const restyle = () => { readPalette(); legend(); carded = listed = ""; draw(); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
  new ResizeObserver(resize).observe(canvas.parentElement);
  restyle();
  resize();
  document.documentElement.classList.add("js");
});
