// The paths below approve/, which need no Vault token, and the server's clock.

// mount is the address of the mount: this page is <mount>ui/phone or <mount>ui/show.
export const mount = new URL("../", document.baseURI).href;

// Failure is an answer other than success; status 0 says that there was none. text
// is the server's, written for people.
export class Failure extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

let ahead = 0; // milliseconds that the server's clock is ahead of ours
let exact = false; // whether an answer said it to the millisecond

// now is the server's time in milliseconds, as far as it is known.
export const now = () => Date.now() + ahead;

// call posts JSON and returns the answer's data.
export async function call(path, body) {
  const sent = Date.now();
  let response, answer;
  try {
    response = await fetch(mount + path, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Vault-Request": "true" },
      body: JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
    });
    answer = await response.json().catch(() => undefined);
  } catch {
    throw new Failure(0, "The server cannot be reached. Check the connection and try again.");
  }
  const data = answer?.data ?? {};
  learn(sent, data, response);
  if (!response.ok) {
    // Vault frames errors that have a status of their own: "1 error occurred:\n\t* …".
    const said = (answer?.errors ?? []).join(" ").replace(/^\d+ errors? occurred:\s*\* /, "").trim();
    throw new Failure(response.status, said || `The server answered with status ${response.status}.`);
  }
  return data;
}

// learn reads the server's clock from an answer. Whole seconds count as their middle,
// and the way there and back as equally long.
function learn(sent, data, response) {
  const middle = (sent + Date.now()) / 2;
  if (typeof data.server_unix_ms === "number") {
    ahead = data.server_unix_ms - middle;
    exact = true;
    return;
  }
  if (exact) return;
  const date = Date.parse(response.headers.get("Date") ?? "");
  const seconds = typeof data.server_time === "number" ? data.server_time * 1000 : date;
  if (!Number.isFinite(seconds)) return;
  // Within the error of whole seconds nothing new is learned.
  if (Math.abs(seconds + 500 - middle - ahead) > 1000) ahead = seconds + 500 - middle;
}

// setClock asks for the time of the server before the first call that has to say it.
export async function setClock() {
  const sent = Date.now();
  const response = await fetch("icon.svg", { cache: "no-store", credentials: "omit" }).catch(() => undefined);
  if (response?.ok) learn(sent, {}, response);
}
