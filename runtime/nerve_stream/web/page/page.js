// The live page: frames and what is said of them come over one WebSocket, what is asked goes as POST.
"use strict";

const TYPING_MS = 150;
const REFUSAL_MS = 900;
const SLIDING_MS = 80;
const DESCRIBE_MS = 2000;
const AREA_MEMORY = 0.95;
const SEEN_AT_ONCE = 10; // rows of the legend; more have a field to find one
const RETRY_MS = [500, 1000, 2000, 4000];
const byId = (id) => document.getElementById(id);
const canvas = byId("canvas");
const surface = canvas.getContext("2d");

let state = {};
let socket = null;
let retries = 0;
let describedAt = 0;
let owed = false;

// ---- asking -------------------------------------------------------------------------------------------------------

async function ask(path, body, type) {
  try {
    const answer = await fetch(path, { method: "POST", body, headers: { "content-type": type } });
    const said = await answer.json().catch(() => ({}));
    return answer.ok ? { ...said, ok: true } : { ok: false, error: said.error || `refused (${answer.status})` };
  } catch {
    return { ok: false, error: "the server does not answer" };
  }
}

const askJson = (path, wanted) => ask(path, JSON.stringify(wanted), "application/json");

// Asks with the newest value once the one before is answered; what was typed meanwhile and is out of date is never sent.
function latest(path, waitMs, answered) {
  let wanted = null;
  let timer = 0;
  let busy = false;
  async function send() {
    if (busy || wanted === null) return;
    const now = wanted;
    wanted = null;
    busy = true;
    const answer = await askJson(path, now);
    busy = false;
    answered(answer, wanted === null);
    send();
  }
  return (value) => {
    wanted = value;
    clearTimeout(timer);
    timer = setTimeout(send, waitMs);
  };
}

function tell(text, wrong = false) {
  byId("notice").textContent = text;
  byId("notice").classList.toggle("wrong", wrong);
}

const tellRefusal = (answer) => { if (!answer.ok) tell(answer.error, true); };

// ---- frames -------------------------------------------------------------------------------------------------------

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/live`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { retries = 0; };
  socket.onmessage = async (event) => {
    await show(event.data);
    owed = true;
    acknowledge();
  };
  socket.onclose = () => {
    owed = false;
    byId("connection").textContent = "no connection; trying again";
    document.body.dataset.connected = "no";
    setTimeout(connect, RETRY_MS[Math.min(retries++, RETRY_MS.length - 1)]);
  };
}

// The next view is sent when this one is answered: a slow page misses views, and one in the background gets none.
function acknowledge() {
  if (owed && !document.hidden && socket.readyState === WebSocket.OPEN) {
    owed = false;
    socket.send("next");
  }
}

async function show(message) {
  const length = new DataView(message).getUint32(0);
  state = JSON.parse(new TextDecoder().decode(new Uint8Array(message, 4, length)));
  const jpeg = new Uint8Array(message, 4 + length);
  byId("waiting").hidden = jpeg.length > 0;
  if (jpeg.length > 0) {
    const bitmap = await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
    }
    surface.drawImage(bitmap, 0, 0);
    bitmap.close();
  }
  document.body.dataset.connected = "yes";
  document.body.dataset.frame = String(state.frame ?? "");
  describe();
}

// ---- what is said -------------------------------------------------------------------------------------------------

function describe() {
  const run = (state.runs || {})[state.source] || {};
  setText("connection", [run.state || state.worker, state.paused ? "paused" : "", `${state.viewers} looking`].filter(Boolean).join(", "));
  byId("pause").classList.toggle("on", Boolean(state.paused));
  setText("pause", state.paused ? "Go on" : "Pause");
  describeWords();
  describeLegend();
  describeView();
  describeRun(run);
  const now = Date.now();
  if (now - describedAt > DESCRIBE_MS) {
    describedAt = now;
    const seen = (state.classes || []).filter((one) => one.share >= 0.01).sort((a, b) => b.share - a.share);
    canvas.setAttribute("aria-label", seen.length ? seen.map((one) => `${one.name} ${percent(one.share)}`).join(", ") : "no picture yet");
  }
}

function setText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

const percent = (share) => `${share > 0 && share < 0.01 ? "<1" : Math.round(100 * share)} %`;

let wordsOfServer = null;
const usualShares = new Map();
let order = [];

function describeWords() {
  const field = byId("words");
  field.disabled = Boolean(state.words_fixed) || !state.names;
  if (state.words_fixed) setText("words-help", state.words_fixed);
  if (state.words !== wordsOfServer && document.activeElement !== field) field.value = state.words;
  wordsOfServer = state.words;
}

function describeLegend() {
  const list = byId("legend");
  const hidden = new Set(state.hidden);
  const drawn = inOrder((state.classes || []).filter((one, label) => !(state.background && label === 0)));
  const rows = new Map([...list.children].map((row) => [row.dataset.name, row]));
  drawn.forEach((one, place) => {
    const row = rows.get(one.name) || newRow(one.name);
    rows.delete(one.name);
    if (list.children[place] !== row) list.insertBefore(row, list.children[place] || null);
    const [toggle] = row.children;
    toggle.setAttribute("aria-pressed", String(!hidden.has(one.name)));
    toggle.children[0].style.backgroundColor = one.colour;
    const share = percent(one.share);
    if (toggle.children[2].textContent !== share) toggle.children[2].textContent = share;
  });
  rows.forEach((row) => row.remove());
  byId("show-all").hidden = !drawn.some((one) => hidden.has(one.name));
  find();
}

// Rows whose name has the letters that are looked for; no other is seen or reached.
function find() {
  const rows = [...byId("legend").children];
  const field = byId("find");
  byId("find-row").hidden = rows.length <= SEEN_AT_ONCE;
  if (byId("find-row").hidden) field.value = "";
  const wanted = field.value.trim().toLowerCase();
  rows.forEach((row) => { row.hidden = !row.dataset.name.toLowerCase().includes(wanted); });
  const found = rows.filter((row) => !row.hidden);
  const names = (state.names || 0) - Number(Boolean(state.background));
  setText("found", found.length < names ? `${found.length} of ${names}` : `${names}`);
  reachable(found.find((row) => row.contains(document.activeElement)) || found.find((row) => "reached" in row.dataset) || found[0]);
}

// Tab stops at one row, arrow keys go on from there: a hundred classes are no two hundred stops.
function reachable(reached) {
  for (const row of byId("legend").children) {
    row.toggleAttribute("data-reached", row === reached);
    for (const button of row.children) button.tabIndex = row === reached ? 0 : -1;
  }
}

function moveInLegend(event) {
  const rows = [...byId("legend").children].filter((row) => !row.hidden);
  const place = rows.findIndex((row) => row.contains(event.target));
  const next = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: rows.length - 1 }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  rows[next]?.querySelector(`.${event.target.className}`).focus();
}

// Largest first, now or over the last seconds; the list rests while somebody points at it or is in it.
function inOrder(classes) {
  for (const { name, share } of classes) {
    usualShares.set(name, AREA_MEMORY * (usualShares.get(name) ?? share) + (1 - AREA_MEMORY) * share);
  }
  const names = classes.map((one) => one.name);
  const before = new Set(order);
  const isOther = names.length !== order.length || names.some((name) => !before.has(name));
  const list = byId("legend");
  if (isOther || (Date.now() - describedAt > DESCRIBE_MS && !list.matches(":hover, :focus-within"))) {
    const largest = new Map(classes.map(({ name, share }) => [name, Math.round(100 * Math.max(share, usualShares.get(name)))]));
    order = [...names].sort((a, b) => largest.get(b) - largest.get(a));
  }
  const places = new Map(order.map((name, place) => [name, place]));
  return [...classes].sort((a, b) => places.get(a.name) - places.get(b.name));
}

function newRow(name) {
  const row = document.createElement("li");
  row.dataset.name = name;
  const toggle = document.createElement("button");
  toggle.type = "button";
  toggle.className = "class";
  for (const kind of ["swatch", "name", "share"]) {
    const part = document.createElement("span");
    part.className = kind;
    toggle.append(part);
  }
  toggle.children[0].setAttribute("aria-hidden", "true");
  toggle.children[1].textContent = name;
  toggle.title = `hide or show ${name}`;
  toggle.addEventListener("click", () => {
    const hidden = new Set(state.hidden);
    if (!hidden.delete(name)) hidden.add(name);
    hide([...hidden]);
  });
  const only = document.createElement("button");
  only.type = "button";
  only.className = "only";
  only.textContent = "only";
  only.setAttribute("aria-label", `show only ${name}`);
  only.addEventListener("click", () => hide(state.classes.map((one) => one.name).filter((other) => other !== name)));
  row.append(toggle, only);
  return row;
}

async function hide(names) {
  state.hidden = names;
  tellRefusal(await askJson("view", { hidden: names }));
}

function describeView() {
  const choice = byId("source");
  const names = state.sources || [];
  if ([...choice.options].map((one) => one.value).join("\n") !== names.join("\n")) {
    choice.replaceChildren(...names.map((name) => new Option(name, name)));
  }
  byId("source-row").hidden = names.length < 2;
  if (document.activeElement !== choice) choice.value = state.source;
  byId("heat").checked = Boolean(state.heat);
  byId("scale").hidden = !state.heat;
  const opacity = byId("opacity");
  if (document.activeElement !== opacity) opacity.value = state.opacity;
  setText("opacity-value", `${Math.round(100 * opacity.value)} %`);
}

function describeRun(run) {
  const dropped = Object.entries(run.dropped || {}).filter(([, count]) => count > 0);
  fill("run", [
    ["frame", state.frame === undefined ? "" : `${state.frame}${state.keyframe ? " (keyframe)" : ""}`],
    ["size", state.width ? `${state.width} x ${state.height}` : ""],
    ["frames a second", run.fps === undefined ? "" : run.fps.toFixed(1)],
    ["a frame takes", state.timings_ms ? `${Math.round(state.timings_ms.total || 0)} ms` : ""],
    ["age when shown", run.age_ms ? `${Math.round(run.age_ms)} ms` : ""],
    ["mean confidence", state.confidence === undefined ? "" : percent(state.confidence)],
    ["done", run.done === undefined ? "" : String(run.done)],
    ["dropped", run.dropped ? dropped.map(([why, count]) => `${count} ${why}`).join(", ") || "none" : ""],
    ["error", run.error || ""],
  ]);
  fill("timings", Object.entries(state.timings_ms || {}).map(([stage, ms]) => [stage, ms.toFixed(1)]));
}

function fill(id, lines) {
  const shown = lines.filter(([, text]) => text);
  const list = byId(id);
  while (list.children.length > 2 * shown.length) list.lastChild.remove();
  while (list.children.length < 2 * shown.length) list.append(document.createElement(list.children.length % 2 ? "dd" : "dt"));
  shown.flat().forEach((text, place) => {
    if (list.children[place].textContent !== text) list.children[place].textContent = text;
  });
}

// ---- what is asked ------------------------------------------------------------------------------------------------

// Words hold at once, but a word that is half typed is no mistake yet.
let refusal = 0;
function tellWords(answer) {
  byId("words-error").textContent = answer.ok ? "" : answer.error;
  byId("words").setAttribute("aria-invalid", String(!answer.ok));
}
const askWords = latest("words", TYPING_MS, (answer, isNewest) => {
  if (!isNewest) return;
  clearTimeout(refusal);
  if (answer.ok) tellWords(answer);
  else refusal = setTimeout(tellWords, REFUSAL_MS, answer);
});
const askView = latest("view", SLIDING_MS, tellRefusal);

byId("words").addEventListener("input", (event) => {
  clearTimeout(refusal);
  askWords({ words: event.target.value });
});
byId("words").addEventListener("keydown", (event) => {
  if (event.key === "Enter") event.preventDefault(); // words hold without it
});
byId("words-form").addEventListener("submit", (event) => event.preventDefault());
byId("opacity").addEventListener("input", (event) => {
  setText("opacity-value", `${Math.round(100 * event.target.value)} %`);
  askView({ opacity: Number(event.target.value) });
});
byId("heat").addEventListener("change", async (event) => tellRefusal(await askJson("view", { heat: event.target.checked })));
byId("source").addEventListener("change", async (event) => tellRefusal(await askJson("view", { source: event.target.value })));
byId("pause").addEventListener("click", async () => tellRefusal(await askJson("run", { do: state.paused ? "resume" : "pause" })));
byId("step").addEventListener("click", async () => tellRefusal(await askJson("run", { do: "step" })));
byId("show-all").addEventListener("click", () => hide([]));
byId("find").addEventListener("input", find);
byId("legend").addEventListener("keydown", moveInLegend);
byId("legend").addEventListener("focusin", find);

async function upload(file) {
  if (!file) return;
  tell(`sending ${file.name}`);
  const answer = await ask("pictures", file, file.type || "application/octet-stream");
  if (answer.ok) tell(`${file.name}, ${answer.width} x ${answer.height}`);
  else tell(answer.error, true);
}

byId("upload").addEventListener("change", (event) => {
  upload(event.target.files[0]);
  event.target.value = "";
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("drop").hidden = false;
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) byId("drop").hidden = true;
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").hidden = true;
  upload(event.dataTransfer.files[0]);
});
document.addEventListener("visibilitychange", acknowledge);

connect();
