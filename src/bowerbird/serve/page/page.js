// What the page does in the browser beside Gradio: buttons on cards, a closer look, pictures that are given, waiting.
"use strict";
const bower = (() => {
  const find = (selector, within = document) => within.querySelector(selector);
  let offer = null; // how a picture's name gets to the server

  // Waiting: a bar at the top, and results that step back until others come.
  let timer = 0;
  function busy() {
    document.body.classList.add("busy");
    for (const one of document.querySelectorAll("#board, #sides")) one.setAttribute("aria-busy", "true");
    clearTimeout(timer);
    timer = setTimeout(idle, 60000);
  }
  function idle() {
    clearTimeout(timer);
    document.body.classList.remove("busy");
    for (const one of document.querySelectorAll("[aria-busy]")) one.removeAttribute("aria-busy");
  }
  document.addEventListener("DOMContentLoaded", () => {
    // Every answer changes the page below the bar; what was said before may be said again, so a moment's quiet counts.
    let quiet = 0;
    new MutationObserver((changes) => {
      if (!document.body.classList.contains("busy")) return;
      if (!changes.some((one) => one.target instanceof Element && one.target.closest("#board, #sides, #asked, #common, #further"))) return;
      clearTimeout(quiet);
      quiet = setTimeout(idle, 60);
    }).observe(document.body, { childList: true, subtree: true, characterData: true });
  });

  function press(event, trigger) {
    const button = event.target.closest("[data-do]");
    if (!button) return;
    const { do: what, id = "", piece = "", text = "" } = button.dataset;
    if (what === "look") return look(button.closest(".card"));
    if (what === "unfold") return unfold(button);
    busy();
    if (what !== "drop" && what !== "keep") window.scrollTo({ top: 0, behavior: "auto" });
    trigger("click", { do: what, id, piece, text });
  }

  // Near copies, which lie behind the first one
  function unfold(button) {
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", open);
    for (let one = button.closest(".card").nextElementSibling; one?.dataset.copy !== undefined; one = one.nextElementSibling) one.hidden = !open;
  }

  // A closer look, from which the arrow keys lead to the cards beside
  function made(kind, name, said) {
    const button = document.createElement("button");
    button.type = "button"; button.className = kind; button.textContent = said;
    if (name !== said) button.setAttribute("aria-label", name);
    return button;
  }
  function look(card) {
    const dialog = document.createElement("dialog");
    dialog.className = "closer";
    dialog.setAttribute("aria-label", "A closer look");
    const shut = made("shut", "Close", "Close"), back = made("turn back", "Previous", "\u2039"), on = made("turn on", "Next", "\u203a");
    const beside = (step) => {
      let one = card;
      do one = step < 0 ? one.previousElementSibling : one.nextElementSibling; while (one?.hidden);
      return one?.classList.contains("card") ? one : null;
    };
    const fill = () => {
      const pieces = [...find(".closely", card).children].map((one) => one.cloneNode(true));
      const image = pieces.find((one) => one.tagName === "IMG"), told = pieces[pieces.length - 1];
      const doing = find(".do", card)?.cloneNode(true);
      for (const one of doing?.querySelectorAll("[title]") || []) find("span", one).textContent = one.title; // there is room
      if (doing) find("details", told).before(doing);
      if (image) {
        const small = find(".shown img", card); // it is there already, and what is awaited has its shape
        if (small?.currentSrc) image.style.backgroundImage = `url("${small.currentSrc}")`;
        image.src = image.dataset.src;
        const whole = document.createElement("a");
        whole.href = image.dataset.original; whole.target = "_blank"; whole.rel = "noopener"; whole.textContent = "The picture as it is";
        find("details", told).append(whole);
      }
      dialog.classList.toggle("pictured", Boolean(image));
      dialog.replaceChildren(shut, back, on, ...pieces);
      back.disabled = !beside(-1); on.disabled = !beside(1);
    };
    const turn = (step) => {
      const to = beside(step);
      if (!to) return;
      const open = find("details", dialog)?.open, focused = document.activeElement;
      card = to; fill();
      find("details", dialog).open = open;
      (focused === back || focused === on) && !focused.disabled ? focused.focus() : shut.focus();
    };
    dialog.addEventListener("click", (event) => {
      const doing = event.target.closest("[data-do]");
      if (event.target === back) turn(-1);
      else if (event.target === on) turn(1);
      else if (doing) { dialog.close(); find(`.do [data-do="${doing.dataset.do}"]`, card).click(); }
      else if (event.target === dialog || event.target === shut) dialog.close();
    });
    dialog.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step && !event.altKey && !event.ctrlKey && !event.metaKey) { event.preventDefault(); turn(step); }
    });
    dialog.addEventListener("close", () => { dialog.remove(); find(".shown", card)?.focus(); });
    fill();
    (find(".gradio-container") || document.body).append(dialog);
    dialog.showModal();
  }

  // A picture to search with
  async function send(blob) {
    const fault = (said) => { const place = find("#picture .fault"); const dialog = find("#picture dialog");
      place.textContent = said; if (!dialog.open) dialog.showModal(); };
    if (!offer) return;
    busy();
    try {
      const answer = await fetch("page/given", { method: "POST", body: blob });
      const said = await answer.text();
      if (!answer.ok) { idle(); return fault(said || "The picture was not taken."); }
      find("#picture .fault").textContent = "";
      find("#picture dialog").close();
      offer("click", { do: "picture", name: said });
    } catch { idle(); fault("The picture did not arrive. Try again."); }
  }

  function give(element, trigger) {
    offer = trigger;
    const dialog = find("dialog", element), video = find("video", element), file = find("input", element);
    const shooting = find(".shooting", element);
    let stream = null;
    const stop = () => { stream?.getTracks().forEach((track) => track.stop()); stream = null; video.srcObject = null;
      video.hidden = shooting.hidden = true; find(".ways", element).hidden = false; };
    const on = (selector, act) => find(selector, element).addEventListener("click", act);
    on(".open", () => { find(".fault", element).textContent = ""; dialog.showModal(); });
    on(".close", () => dialog.close());
    on(".choose", () => file.click());
    on(".stop", stop);
    on(".camera", async () => {
      try {
        stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      } catch { find(".fault", element).textContent = "There is no camera that this page may use."; return; }
      video.srcObject = stream; video.hidden = shooting.hidden = false; find(".ways", element).hidden = true;
      await video.play();
    });
    on(".shoot", () => {
      const canvas = document.createElement("canvas");
      canvas.width = video.videoWidth; canvas.height = video.videoHeight;
      canvas.getContext("2d").drawImage(video, 0, 0);
      canvas.toBlob((blob) => { stop(); if (blob) send(blob); }, "image/jpeg", 0.95);
    });
    dialog.addEventListener("close", stop);
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    file.addEventListener("change", () => { if (file.files[0]) send(file.files[0]); file.value = ""; });
  }

  const picture = (items) => [...(items || [])].find((one) => one.type.startsWith("image/"));
  const carries = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  let depth = 0;
  addEventListener("dragenter", (event) => { if (carries(event)) { depth += 1; document.body.classList.add("dropping"); } });
  addEventListener("dragleave", (event) => { if (carries(event) && --depth <= 0) { depth = 0; document.body.classList.remove("dropping"); } });
  addEventListener("dragover", (event) => { if (carries(event)) event.preventDefault(); });
  addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault(); event.stopPropagation();
    depth = 0; document.body.classList.remove("dropping");
    const file = event.dataTransfer.files[0];
    if (file) send(picture(event.dataTransfer.files) || file);
  }, true);
  addEventListener("paste", (event) => {
    const file = picture(event.clipboardData?.files);
    if (file) { event.preventDefault(); send(file); }
  });
  // "/" leads to the words, as on many pages that search.
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    event.preventDefault(); find("#words textarea, #words input")?.focus();
  });
  // Gradio takes a slider's value when a pointer lets go of it; keys shall do as much.
  let keyed = null;
  addEventListener("keydown", (event) => { if (event.target.matches?.("input[type=range], input[type=number]")) keyed = event.target; }, true);
  addEventListener("pointerdown", () => { keyed = null; }, true);
  addEventListener("change", (event) => {
    if (event.target === keyed) setTimeout(() => event.target.dispatchEvent(new PointerEvent("pointerup", { bubbles: true })), 50);
  }, true);
  return { busy, idle, press, give };
})();
