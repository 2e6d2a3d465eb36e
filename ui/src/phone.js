// An approver's device in a browser: it is enrolled once, and then scans codes.
//
// The page's address may carry, behind "#": r and f, a request and the form of its
// moving code, when the phone's own camera opened the link; or e and s, an enrolment
// and its secret. With neither it begins at home.

import { parseLink } from "./approval.js";
import { Failure, mount } from "./api.js";
import { unbase64url, unhex } from "./bytes.js";
import * as enrolment from "./enrol.js";
import { devices } from "./keys.js";
import { fetchRequest, showOwn, showRequest } from "./request.js";
import { pasting, scanner, why } from "./scan.js";
import { alone, announce, button, code, facts, h, notice, plain, said, sentence, show } from "./view.js";

// follow goes where a link leads, and returns false where it leads nowhere here.
function follow(link) {
  const at = link.indexOf("#");
  const page = at < 0 ? "" : link.slice(0, at);
  const request = parseLink(link);
  const enrol = parseEnrolment(link.slice(at + 1));
  if (!request && !enrol) return false;
  // A device's keys belong to one site: links to others are not for this page. "mpc:"
  // stands for a mount that has no address for pages.
  if (page !== "" && page !== "mpc:" && page !== mount + "ui/phone") {
    elsewhere(page);
    return true;
  }
  if (enrol) enrolment.begin(enrol, home);
  else open(request);
  return true;
}

function parseEnrolment(s) {
  const v = new URLSearchParams(s);
  try {
    unhex(v.get("e"), 16);
    unbase64url(v.get("s"));
    return { enrolment: v.get("e"), secret: v.get("s") };
  } catch {
    return undefined;
  }
}

function elsewhere(page) {
  show("A code of another site", notice("warn", h("p", null, "It leads to ", h("code", null, plain(page.slice(0, 200))), ", and not to this page. If that is where you are enrolled, open it there.")), bar(button("Scan another code", scan, "primary")));
}

const bar = (...b) => h("div", { class: "bar" }, h("div", { class: "pair" }, b));

// device picks the key to use: the newest that was confirmed, or the one chosen.
let chosen;
async function enrolled() {
  const all = await devices(mount);
  const ready = all.filter((d) => !d.pending);
  return { all, ready, pending: all.find((d) => d.pending), device: ready.find((d) => d.id === chosen) ?? ready[0] };
}

async function home() {
  const { ready, pending, device } = await enrolled();
  if (!device && pending) return enrolment.wait(pending, home);
  if (!device) {
    return show("This device is not enrolled",
      h("p", null, "To approve requests, an approver enrols a device once. Whoever runs the vault gives you a link, or a code to scan."),
      bar(button("Scan an enrolment code", scan, "primary")), pasting(follow));
  }
  const choice = ready.length > 1 && h("section", { class: "card" }, h("label", { for: "who" }, "Approve as"),
    h("select", { id: "who", onchange: (e) => { chosen = e.target.value; home(); } }, ready.map((d) => h("option", { value: d.id, selected: d.id === device.id }, plain(`${d.approver} (${d.name}, ${d.id.slice(0, 8)})`)))));
  show("Ready to approve",
    h("p", null, "Scan the code that is shown by whoever asks. It changes every few seconds, so scan it where it is shown."),
    choice,
    h("section", { class: "card" }, h("h2", null, "This device"), facts(["Approver", said(device.approver)], ["Name", said(device.name)], ["ID of its key", code(device.id)], ["Site", plain(mount)])),
    pasting(follow),
    bar(button("Scan a code", scan, "primary")));
}

function scan() {
  const hint = h("p", { class: "note" }, "Hold the code inside the frame.");
  const found = (text) => {
    if (follow(text)) return true;
    hint.textContent = "That is a code of something else.";
    return false;
  };
  show("Scan the code", h("div", { class: "scan" }, scanner(found, (err) => {
    document.querySelector(".camera")?.remove();
    hint.replaceChildren(notice("warn", h("p", null, why(err))));
    document.querySelector(".paste")?.setAttribute("open", "");
  })), hint, pasting(follow), bar(button("Back", home)));
}

// open fetches the request of a form at once: the form is good for seconds only.
async function open(scanned) {
  show("Opening the request", h("p", { class: "wait" }, "One moment …"));
  try {
    const { device } = await enrolled(); // fails where the browser keeps nothing
    if (!device) return await home();
    showRequest(device, await fetchRequest(device, scanned), scan);
  } catch (err) {
    stopped(err);
  }
}

// stopped says why there is no request to show.
function stopped(err) {
  const scanAgain = bar(button("Scan again", scan, "primary"));
  if (!(err instanceof Failure)) {
    return show("This request cannot be shown", notice("bad", h("p", null, sentence(err.message)), h("p", null, "Nothing was signed.")), scanAgain);
  }
  if (err.status === 403 && /^you asked/i.test(err.message)) return showOwn(scan);
  if (err.status === 403) {
    return show("Scan the code again", notice("warn", h("p", null, "The code was no longer the present one, or the request is not for this device: codes change every few seconds, and each is good once.")),
      h("p", { class: "note" }, "If it happens again, ask whether the policy of the account names this device's key, and whether this device's clock is right."), scanAgain);
  }
  if (err.status === 404 || err.status === 409) {
    return show(/^you have answered/i.test(err.message) ? "You have answered already" : "Nothing to answer", notice("", h("p", null, sentence(err.message))), scanAgain);
  }
  if (err.status === 429) {
    return show("Wait a little", notice("warn", h("p", null, "Too many wrong codes were tried for this request. Scan the code again in a minute or two.")), scanAgain);
  }
  show("The request could not be opened", notice("bad", h("p", null, sentence(err.message))), scanAgain);
}

async function begin() {
  const link = location.hash;
  // A form is good once; it does not stay in the address and the history. An
  // enrolment's link stays until it has been used, so that the page can be loaded again.
  if (link && !parseEnrolment(link.slice(1))) history.replaceState(null, "", location.pathname);
  try {
    if (link.length > 1 && follow(link)) return;
    show("Approve", h("p", { class: "wait" }, "One moment …")); // a browser may take seconds to open its key store
    await home();
    if (link.length > 1) announce("The link is not complete. Scan the code, or ask for it again.");
  } catch (err) {
    show("This page cannot work here", notice("bad", h("p", null, sentence(err.message))));
  }
}

if (alone()) {
  window.addEventListener("hashchange", () => location.hash && begin());
  begin();
}
