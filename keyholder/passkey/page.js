// The page on which a browser uses a passkey for mpckms, which serves it on the
// loopback address and waits for one answer. What the passkey's PRF gives goes there,
// and nowhere else.

const $ = (id) => document.getElementById(id);
const unbase64 = (s) => Uint8Array.from(atob(s), (c) => c.charCodeAt(0));
const base64 = (b) => btoa(String.fromCharCode(...new Uint8Array(b)));
const base64url = (b) => base64(b).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

// show changes the page; what is not named goes away.
function show({ title, text = "", trouble = "", go = "", note = "", end = "" }) {
  $("title").textContent = document.title = title;
  $("text").textContent = text;
  $("trouble").textContent = trouble;
  $("note").textContent = note;
  $("go").textContent = go;
  $("go").hidden = $("stop").hidden = !go;
  $("main").className = end;
  if (end) $("title").focus();
}

// pressed waits for a button.
function pressed() {
  return new Promise((resolve) => {
    $("go").onclick = () => resolve(true);
    $("stop").onclick = () => resolve(false);
    $("go").focus();
  });
}

// busy runs one prompt of the browser, while nothing else can be pressed.
async function busy(f) {
  $("go").disabled = $("stop").disabled = true;
  $("trouble").textContent = "";
  $("status").textContent = "Follow your browser's prompt.";
  try {
    return await f();
  } finally {
    $("go").disabled = $("stop").disabled = false;
    $("status").textContent = "";
  }
}

class Failed extends Error {
  constructor(code) {
    super(code);
    this.code = code;
  }
}

// there makes sure that mpckms still waits. Once it has ended, its port is anybody's on
// this computer, and this page would ask for the passkey and send its secret to whoever
// has it. Nobody else was told the challenge.
async function there(task) {
  const now = await fetch("task").then((r) => (r.ok ? r.json() : undefined)).catch(() => undefined);
  if (now?.use_challenge !== task.use_challenge) throw new Failed("over");
}

// make makes the passkey.
async function make(task) {
  await there(task);
  const c = await navigator.credentials.create({
    publicKey: {
      rp: { id: task.site, name: "mpckms" },
      user: { id: unbase64(task.user), name: task.name, displayName: `${task.name} (mpckms)` },
      challenge: unbase64(task.make_challenge),
      pubKeyCredParams: [-7, -8, -257].map((alg) => ({ type: "public-key", alg })),
      authenticatorSelection: { residentKey: "preferred", userVerification: "required" },
      attestation: "none",
      extensions: { prf: {} },
      timeout: task.timeout,
    },
  });
  if (!c.getClientExtensionResults().prf?.enabled) {
    // Where the browser can, it takes the passkey out of its list again.
    await PublicKeyCredential.signalUnknownCredential?.({ rpId: task.site, credentialId: base64url(c.rawId) }).catch(() => {});
    throw new Failed("no-prf");
  }
  return { id: new Uint8Array(c.rawId), attestation: base64(c.response.attestationObject), make_client_data: base64(c.response.clientDataJSON) };
}

// use has the passkey sign, and its PRF give its output.
async function use(task, id) {
  await there(task);
  const c = await navigator.credentials.get({
    publicKey: {
      challenge: unbase64(task.use_challenge),
      rpId: task.site,
      allowCredentials: [{ type: "public-key", id }],
      userVerification: "required",
      extensions: { prf: { evalByCredential: { [base64url(id)]: { first: unbase64(task.salt) } } } },
      timeout: task.timeout,
    },
  });
  const output = c.getClientExtensionResults().prf?.results?.first;
  if (!output) throw new Failed("no-prf");
  const secret = new Uint8Array(output);
  const answer = {
    credential: base64(c.rawId), authenticator_data: base64(c.response.authenticatorData),
    client_data: base64(c.response.clientDataJSON), signature: base64(c.response.signature), output: base64(secret),
  };
  secret.fill(0);
  return answer;
}

// step offers a prompt until it went well or the person stops.
async function step(look, f) {
  for (let trouble = ""; ; ) {
    show({ ...look, trouble, go: trouble ? "Try again" : look.go });
    if (!(await pressed())) throw new Failed("stopped");
    try {
      return await busy(f);
    } catch (err) {
      if (err instanceof Failed) throw err;
      trouble = inWords(err?.name);
    }
  }
}

let tried = ""; // what the last prompt failed with

function inWords(name) {
  tried = name ?? "Error";
  if (tried === "NotAllowedError") return "No passkey was used. It was cancelled, it took too long, or there is none for this authenticator here. Use the browser or the device that it was made with.";
  return `Your browser failed with ${tried}.`;
}

async function send(task, answer) {
  await there(task);
  const r = await fetch("answer", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(answer) });
  if (!r.ok) throw new Failed("not taken");
}

async function run(task) {
  if (typeof PublicKeyCredential !== "function" || !navigator.credentials) throw new Failed("no-webauthn");
  if (!task.make) {
    const look = { title: "Use your passkey", text: `mpckms asks for the passkey of ${task.name}.`, go: "Use the passkey", note: "Go on only if you have just started mpckms yourself." };
    return step(look, () => use(task, unbase64(task.credential)));
  }
  const [first, second] = $("steps").children;
  const title = "Make a passkey";
  $("steps").hidden = false;
  first.ariaCurrent = "step";
  const { id, ...made } = await step(
    { title, text: `mpckms makes the passkey of ${task.name}, which you log in with from then on.`, go: "Make the passkey", note: "Your browser asks twice: for making it, and for using it." }, () => make(task));
  first.className = "done";
  first.append(" – done");
  first.removeAttribute("aria-current");
  second.ariaCurrent = "step";
  tried = "";
  const used = await step({ title, text: "The passkey was made. Using it once shows that it works.", go: "Use it" }, () => use(task, id));
  return { ...made, ...used };
}

async function main() {
  let task;
  try {
    const r = await fetch("task");
    if (!r.ok) throw new Failed("over");
    task = await r.json();
  } catch {
    return show({ title: "Nobody waits here", text: "mpckms has ended. Run it again and use the page that it opens.", end: "end" });
  }
  let answer, failed = "";
  try {
    answer = await run(task);
  } catch (err) {
    failed = err instanceof Failed ? (err.code === "stopped" && tried) || err.code : (err?.name ?? "Error");
    answer = { error: failed };
  }
  $("steps").hidden = true;
  try {
    await send(task, answer);
  } catch {
    return show({ title: "mpckms was not there", text: "What the browser gave was not taken: mpckms has ended, or had an answer already. Run it again.", end: "end" });
  }
  history.replaceState(null, "", "/"); // the address is used up
  if (failed) return show({ title: "Not done", text: "mpckms says why, and nothing was changed. This window can be closed.", end: "end" });
  show({ title: "Done here", text: "Go back to mpckms. This window can be closed.", end: "end good" });
}

await main();
