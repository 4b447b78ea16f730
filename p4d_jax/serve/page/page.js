// The page: asks for views of the head, shows the pictures that come back, and brings files there and home.
// At most IN_FLIGHT views are on their way, one drawn and one to follow; what is asked for meanwhile is one
// view, the newest. The one to follow is sent just before the one at work is done: earlier it would only grow old.

const IN_FLIGHT = 2;
const SLACK = 15; // ms that it is sent earlier, for what takes longer than usual
const STILL_AFTER = 200; // ms without a movement after which the full picture is asked for
const WEBCAM_WIDTH = 320;
const KEY_STEP = 0.08;
const SLIDERS = [
  ["smile", "Smile", -1], ["mouth", "Open mouth", 0], ["blink_left", "Blink left", 0],
  ["blink_right", "Blink right", 0], ["brows", "Brows", -1], ["gaze_x", "Gaze sideways", -1],
  ["gaze_y", "Gaze up", -1], ["turn_x", "Turn", -1], ["turn_y", "Nod", -1], ["tilt", "Tilt", -1],
];

const find = (name) => document.getElementById(name);
const canvas = find("picture");
const pen = canvas.getContext("2d");
const video = find("webcam");
const grabber = document.createElement("canvas");
const grabberPen = grabber.getContext("2d", { willReadFrequently: true });
const view = { mover: "rest", time: 0, picture: "photo", orbit_x: 0, orbit_y: 0 };
for (const [name] of SLIDERS) view[name] = 0;

let socket = null;
let session = sessionStorage.getItem("session");
let limits = { photo: Infinity, avatar: Infinity, motion: Infinity };
let state = { head: false };
let ready = false;
let busy = false;
let over = false; // the session was ended on purpose
let sent = 0;
let answered = 0;
let shown = 0;
let dirty = false;
let coarse = false;
let stillTimer = 0;
let playing = null; // the clock's time at the film's beginning
let stream = null;
let grabbed = 0; // when the webcam took what was sent last
let grabTime = 0; // ms that it took to be read
let due = 0; // the clock's time before which the next view would only wait
let dueTimer = 0;
let arrivals = [];
const asked = new Map(); // number of a view -> when what it shows was true, and when it was sent

// Views ------------------------------------------------------------------------------------------------------

function moved() {
  coarse = true;
  wants();
  clearTimeout(stillTimer);
  if (playing === null && !stream) stillTimer = setTimeout(full, STILL_AFTER);
  pump();
}

function full() {
  coarse = false;
  wants();
  pump();
}

// Until the picture shows in full what is asked for, it says that it is busy.
function wants() {
  dirty = true;
  canvas.setAttribute("aria-busy", "true");
}

function isOpen() {
  return socket !== null && socket.readyState === WebSocket.OPEN && ready && state.head;
}

function pump() {
  if (!isOpen() || sent - answered >= IN_FLIGHT) return;
  if (!(dirty || stream || playing !== null)) return;
  const early = due - performance.now();
  clearTimeout(dueTimer);
  if (early > 1 && sent > answered) {
    dueTimer = setTimeout(pump, early);
    return;
  }
  let when = performance.now();
  let content = null;
  if (stream) {
    content = grab();
    if (!content) return; // the webcam's next picture asks again
    when = grabbed;
  } else if (playing !== null) {
    view.time = ((when - playing) / 1000) % state.film.seconds;
    find("time").value = view.time;
  }
  dirty = false;
  sent += 1;
  asked.set(sent, { when, left: performance.now() });
  socket.send(content ? packed(message(sent), content) : message(sent));
  pump(); // says when the one to follow is due
}

function message(number) {
  return JSON.stringify({ ...view, number, coarse: coarse || stream !== null || playing !== null });
}

// The webcam's picture as a JPEG, once. toBlob would wait until the browser has nothing else to do.
function grab() {
  if (!video.videoWidth || video.shownSince === grabbed) return null;
  const start = performance.now();
  grabbed = video.shownSince;
  grabber.width = WEBCAM_WIDTH;
  grabber.height = Math.round((WEBCAM_WIDTH * video.videoHeight) / video.videoWidth);
  grabberPen.drawImage(video, 0, 0, grabber.width, grabber.height);
  const text = atob(grabber.toDataURL("image/jpeg", 0.85).split(",")[1]);
  const content = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  grabTime = performance.now() - start;
  return content;
}

function packed(message, content) {
  const text = new TextEncoder().encode(message);
  const both = new Uint8Array(4 + text.length + content.length);
  new DataView(both.buffer).setUint32(0, text.length, true);
  both.set(text, 4);
  both.set(content, 4 + text.length);
  return both;
}

async function arrived(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const now = performance.now();
  const { when, left } = asked.get(header.number) ?? { when: now, left: now };
  const travel = now - left - header.inside_ms; // there and back
  due = now + header.draw_ms - (header.move_ms + travel + SLACK + (stream ? grabTime : 0));
  answered = Math.max(answered, header.number);
  pump();
  const bitmap = await createImageBitmap(new Blob([new Uint8Array(buffer, 4 + length)], { type: "image/jpeg" }));
  if (header.number > shown) {
    shown = header.number;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    canvas.hidden = false;
    find("empty").hidden = true;
    const delay = performance.now() - when;
    arrivals.push(performance.now());
    arrivals = arrivals.filter((time) => time > performance.now() - 2000);
    find("rate").textContent = header.coarse ? `${(arrivals.length / 2).toFixed(1)} pictures a second, ${Math.round(delay)} ms` : "";
    if (header.face === false) say("no face is seen by the webcam");
    else if (header.face) say("");
    canvas.dispatchEvent(new CustomEvent("picture", { detail: { ...header, delay, grab_ms: left - when, travel_ms: travel } }));
  }
  bitmap.close();
  settled(header.number);
}

function settled(number) {
  answered = Math.max(answered, number);
  canvas.setAttribute("aria-busy", String(coarse || dirty || number !== sent));
  for (const key of asked.keys()) if (key < number) asked.delete(key);
}

// The connection ---------------------------------------------------------------------------------------------

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => socket.send(JSON.stringify({ session }));
  socket.onmessage = (event) => (typeof event.data === "string" ? told(JSON.parse(event.data)) : arrived(event.data));
  socket.onclose = () => {
    sent = answered = shown = 0;
    asked.clear();
    if (over) return;
    say("the connection is lost; trying again");
    setTimeout(connect, 1500);
  };
}

function told(message) {
  if (message.type === "hello") {
    session = message.session;
    sessionStorage.setItem("session", session);
    limits = message.limits;
    ready = message.ready;
    say(message.said);
    take(message.state);
    full();
  } else if (message.type === "status") {
    ready = message.ready;
    say(message.said);
    enable();
    full();
  } else if (message.type === "progress") {
    say(message.said);
  } else if (message.type === "error") {
    if (message.number) settled(message.number);
    complain(message.said);
    pump();
  } else if (message.type === "full") {
    over = true;
    complain(message.said);
  } else if (message.type === "ended" && !over) {
    leave();
  }
}

function take(given) {
  state = given;
  if (!state.film && view.mover === "film") stop();
  if (state.film) find("time").max = state.film.seconds;
  const faces = find("faces");
  faces.replaceChildren();
  faces.hidden = !state.faces?.length;
  if (!faces.hidden) {
    faces.append("Several faces. Take number");
    state.faces.forEach((_, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = index + 1;
      button.title = `face ${index + 1} from the left`;
      button.onclick = () => job("/person", JSON.stringify({ person: index + 1 }), "another head");
      faces.append(button);
    });
  }
  find("hint").textContent = state.note || find("hint").textContent;
  if (!state.head) {
    canvas.hidden = true;
    find("empty").hidden = false;
  }
  find("personalise").textContent = state.personalised ? "Personalised" : "Personalise";
  if (state.head) refreshBefore();
  enable();
}

async function refreshBefore() {
  const answer = await fetch("/crop", { headers: { "x-session": session } });
  if (!answer.ok) return;
  URL.revokeObjectURL(find("before").src);
  find("before").src = URL.createObjectURL(await answer.blob());
}

function enable() {
  const can = state.head && !over;
  for (const name of ["show", "sliders", "movers", "home"]) find(name).disabled = !can;
  find("play").disabled = find("time").disabled = !state.film;
  find("personalise").disabled = busy || state.personalised;
  for (const button of document.querySelectorAll("#home button")) {
    const needs = ["film", "motion"].includes(button.dataset.kind);
    button.disabled = busy || (needs && !state.film);
  }
  find("example").disabled = !ready || busy;
  find("rest").disabled = find("record").disabled = !stream;
  for (const input of document.querySelectorAll('input[type="file"]')) input.disabled = busy || over;
}

function say(text) {
  find("status").textContent = text;
}

function complain(text) {
  find("message").textContent = text;
  find("message").hidden = !text;
}

// What is brought, made and taken home -----------------------------------------------------------------------

async function job(path, body, what, headers = {}) {
  if (busy) return null;
  busy = true;
  enable();
  complain("");
  say(`${what} …`);
  try {
    const answer = await fetch(path, { method: "POST", body, headers: { "x-session": session, ...headers } });
    if (!answer.ok) {
      const said = await answer.json().catch(() => ({ said: `the page answered ${answer.status}` }));
      complain(said.said);
      return null;
    }
    if (answer.headers.get("content-type") === "application/octet-stream") return answer;
    take(await answer.json());
    full();
    return state;
  } catch {
    complain("the page does not answer; is it still running?");
    return null;
  } finally {
    busy = false;
    say(ready ? "" : find("status").textContent);
    enable();
  }
}

async function bring(file, isHead) {
  if (!file) return;
  const kind = !isHead ? "motion" : file.name.endsWith(".avatar") ? "avatar" : "photo";
  const most = limits[kind];
  if (file.size > most) {
    complain(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB; at most ${most / 1e6} MB can be used`);
    return;
  }
  const name = { "x-name": encodeURIComponent(file.name) };
  if (isHead) {
    stop();
    if (await job(`/${kind}`, file, `reading the ${kind}`, name)) canvas.focus();
  } else if (await job("/motion", file, "reading the film", name)) {
    play();
  }
}

async function takeHome(kind) {
  const answer = await job("/take", JSON.stringify({ kind, view: { ...view, number: 0 } }), "writing the file");
  if (!answer) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = answer.headers.get("content-disposition").match(/filename="(.*)"/)[1];
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function leave() {
  over = true;
  stop();
  sessionStorage.removeItem("session");
  socket.close();
  take({ head: false });
  say("all is deleted; reload the page to begin anew");
}

// What moves the head ----------------------------------------------------------------------------------------

function stop() {
  if (stream) for (const track of stream.getTracks()) track.stop();
  stream = null;
  playing = null;
  view.mover = "rest";
  video.hidden = true;
  video.srcObject = null;
  find("play").textContent = "Play";
  find("live").setAttribute("aria-pressed", "false");
  find("record").setAttribute("aria-pressed", "false");
  enable();
  full();
}

function play() {
  stop();
  view.mover = "film";
  playing = performance.now() - 1000 * Number(find("time").value % state.film.seconds);
  find("play").textContent = "Pause";
  pump();
}

async function goLive() {
  complain("");
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480, frameRate: 30 } });
  } catch (error) {
    stream = null;
    complain(`the webcam cannot be used (${error.name}); allow it in the browser's settings`);
    return;
  }
  playing = null;
  find("play").textContent = "Play";
  video.srcObject = stream;
  video.hidden = false;
  const shows = (now, about) => {
    video.shownSince = about.captureTime ?? now;
    pump();
    if (stream) video.requestVideoFrameCallback(shows);
  };
  video.requestVideoFrameCallback(shows);
  await video.play();
  socket.send(JSON.stringify({ start_live: true }));
  view.mover = "live";
  find("live").setAttribute("aria-pressed", "true");
  enable();
}

async function record() {
  const pressed = find("record").getAttribute("aria-pressed") === "true";
  const done = await job("/record", JSON.stringify({ keep: pressed }), pressed ? "keeping it" : "recording");
  if (!done) return;
  find("record").setAttribute("aria-pressed", String(!pressed));
  find("record").textContent = pressed ? "Record" : "Stop recording";
  if (pressed && state.film) play();
}

function setBack() {
  view.orbit_x = view.orbit_y = 0;
  for (const [name] of SLIDERS) view[name] = find(`slider_${name}`).value = 0;
  moved();
}

function compare(on) {
  find("before").hidden = !on;
  find("compare").setAttribute("aria-pressed", String(on));
}

// Hands ------------------------------------------------------------------------------------------------------

const clamp = (value) => Math.min(1, Math.max(-1, value));

for (const [name, label, least] of SLIDERS) {
  const row = document.createElement("label");
  row.className = "slider";
  const input = document.createElement("input");
  Object.assign(input, { type: "range", min: least, max: 1, step: 0.02, value: 0, id: `slider_${name}` });
  input.oninput = () => {
    view[name] = Number(input.value);
    moved();
  };
  input.ondblclick = () => {
    input.value = view[name] = 0;
    moved();
  };
  row.append(label, input);
  find("sliders").append(row);
}

let hold = null;
canvas.onpointerdown = (event) => {
  canvas.setPointerCapture(event.pointerId);
  hold = { x: event.clientX, y: event.clientY, turn: event.shiftKey, ...view };
};
canvas.onpointermove = (event) => {
  if (!hold) return;
  const scale = 1.4 / canvas.clientWidth;
  const [x, y] = [(event.clientX - hold.x) * scale, (event.clientY - hold.y) * scale];
  if (hold.turn) {
    set("turn_x", hold.turn_x + x);
    set("turn_y", hold.turn_y + y);
  } else {
    view.orbit_x = clamp(hold.orbit_x - x);
    view.orbit_y = clamp(hold.orbit_y - y);
  }
  moved();
};
canvas.onpointerup = canvas.onpointercancel = () => {
  hold = null;
};

function set(name, value) {
  view[name] = find(`slider_${name}`).value = clamp(value);
}

canvas.onkeydown = (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (step && event.shiftKey) {
    set("turn_x", view.turn_x + KEY_STEP * step[0]);
    set("turn_y", view.turn_y + KEY_STEP * step[1]);
  } else if (step) {
    view.orbit_x = clamp(view.orbit_x - KEY_STEP * step[0]);
    view.orbit_y = clamp(view.orbit_y - KEY_STEP * step[1]);
  } else if (event.key === "Home") {
    setBack();
  } else {
    return;
  }
  event.preventDefault();
  moved();
};
document.onkeydown = (event) => {
  if (event.key.toLowerCase() === "b" && !event.ctrlKey && !event.metaKey && state.head)
    compare(find("before").hidden);
};

document.ondragover = (event) => {
  event.preventDefault();
  find("frame").classList.add("over");
};
document.ondragleave = () => find("frame").classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  find("frame").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) bring(file, !state.head || !(file.type.startsWith("video/") || /\.(npz|csv)$/.test(file.name)));
};

for (const [name, isHead] of [["photo", true], ["photo2", true], ["motion", false]]) {
  find(name).onchange = (event) => {
    bring(event.target.files[0], isHead);
    event.target.value = "";
  };
}
for (const input of document.querySelectorAll('input[name="shown"]')) {
  input.onchange = () => {
    view.picture = input.value;
    full();
  };
}
for (const button of document.querySelectorAll("#home button")) button.onclick = () => takeHome(button.dataset.kind);
find("example").onclick = () => job("/example", "{}", "the example");
find("personalise").onclick = () => job("/personalise", "{}", "personalising");
find("reset").onclick = setBack;
find("compare").onclick = () => compare(find("before").hidden);
find("play").onclick = () => {
  if (playing === null) {
    play();
  } else {
    playing = null;
    find("play").textContent = "Play";
    full();
  }
};
find("time").oninput = (event) => {
  playing = null;
  find("play").textContent = "Play";
  view.mover = "film";
  view.time = Number(event.target.value);
  moved();
};
find("live").onclick = () => (stream ? stop() : goLive());
find("rest").onclick = () => socket.send(JSON.stringify({ start_live: true }));
find("record").onclick = record;
find("end").onclick = async () => {
  if (await fetch("/end", { method: "POST", headers: { "x-session": session } })) leave();
};

enable();
connect();
