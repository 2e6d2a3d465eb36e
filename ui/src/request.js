// One request on an approver's device: it is fetched, shown, and answered.
//
// Everything that is signed is made here from what is shown: the hash of the message
// from its bytes, that of the policy from the policy's, and the mount is the one that
// this device was enrolled at. So a server that shows one thing and means another
// gets a signature over what was shown.

import { byKey, deviceMessage, marshalStatement, openMessage, parsePolicy } from "./approval.js";
import { call, now, setClock } from "./api.js";
import { base64url, equal, hex, sha256, unbase64, unhex } from "./bytes.js";
import { remember, seenBefore, sign } from "./keys.js";
import { interpret, message } from "./message.js";
import * as passkey from "./passkey.js";
import { policyChange, policyView } from "./policy.js";
import { announce, button, code, countdown, facts, h, long, notice, plain, said, sentence, show } from "./view.js";

// fetchRequest asks for a request with a form that was just scanned. It returns what
// the server says and what was computed here.
export async function fetchRequest(device, scanned) {
  await setClock();
  const time = Math.floor(now() / 1000);
  const mount = unhex(device.mount, 16);
  const key = unhex(device.id, 16);
  const answer = await call("approve/open", {
    request: hex(scanned.request), form: base64url(scanned.form), key: device.id, time,
    signature: await sign(device.key, openMessage(mount, scanned.request, scanned.form, key, time)),
  });
  return read(device, scanned.request, answer);
}

// read turns an answer of approve/open into a subject: what the approver's statement
// is about. It throws where the two ends do not mean the same.
async function read(device, request, a) {
  const mount = unhex(device.mount, 16);
  if (a.mount_id !== device.mount) throw new Error("The request is of another mount than the one that this device was enrolled at.");
  const policyBytes = unbase64(a.policy);
  const policy = await parsePolicy(policyBytes);
  const mine = byKey(policy, unhex(device.id, 16));
  if (!mine || mine.key.kind !== "device") throw new Error("This device's key is not in the policy of the account.");
  const signs = a.action === "sign";
  if (!signs && a.action !== "policy") throw new Error("The request is for something that this page does not know.");
  const input = signs ? unbase64(a.input) : undefined;
  const nextBytes = signs ? undefined : unbase64(a.next_policy);
  const next = nextBytes && (await parsePolicy(nextBytes));
  if (next && (!Number.isSafeInteger(a.epoch) || next.since !== BigInt(a.epoch) || next.since <= policy.since)) {
    throw new Error("The new policy is not one that may follow the present one.");
  }
  const subject = {
    action: a.action, mount, account: unhex(a.account_id, 16), publicKey: unhex(a.public_key), request,
    requester: a.requester, requesterName: a.requester_name ?? "", algorithm: a.algorithm,
    messageType: signs ? a.message_type : "", hash: signs ? a.hash_algorithm ?? "" : "",
    message: signs ? await sha256(input) : undefined,
    derivationPath: signs ? a.derivation_path ?? "" : "", taprootTweak: signs ? a.taproot_tweak ?? "" : "",
    policy: await sha256(policyBytes), nextPolicy: signs ? undefined : await sha256(nextBytes),
    epoch: signs ? 0 : a.epoch, expires: a.expires,
  };
  if (!Number.isSafeInteger(subject.expires) || !subject.requester || subject.publicKey.length === 0) throw new Error("The request lacks what every request has.");
  let made = {};
  let unclear;
  try {
    if (input) made = await interpret(subject.algorithm, subject.messageType, subject.hash, input);
  } catch (err) {
    unclear = err.message; // it is shown as far as it goes, and can be refused
  }
  const claimed = a.digest ? String(a.digest) : "";
  return {
    answer: a, ticket: a.ticket, subject, input, policy, me: mine.approver,
    next, unclear, claimed, digest: made.digest, typed: made.typed,
    differs: claimed !== "" && made.digest !== undefined && claimed !== hex(made.digest),
    seen: await seenBefore(mount, subject.account, a.account, subject.publicKey),
  };
}

// means says what of a policy this page can fulfil for an approver: which passkeys it
// may use, whether a one-time code or a login is needed as well, and what is missing.
function means(r) {
  const keys = passkey.supported() ? r.me.keys.filter(passkey.usable) : [];
  const signatures = 1 + (keys.length > 0 ? 1 : 0);
  let missing = r.policy.factors - signatures;
  const totp = missing > 0 && r.me.checked.includes("totp");
  if (totp) missing--;
  const login = missing > 0 && r.me.checked.includes("login");
  if (login) missing--;
  return { keys, totp, login, possible: missing <= 0 && signatures >= r.policy.signatureFactors && !(login && r.answer.login === false) };
}

// showRequest shows a request and asks for an answer; again goes back to scanning.
export function showRequest(device, r, again) {
  const a = r.answer;
  if (a.state && a.state !== "pending") return over(a.state, r, again);
  if (r.me.requesters.includes(r.subject.requester)) return showOwn(again);

  const can = means(r);
  const signs = r.subject.action === "sign";
  const stopped = r.seen === "key" || r.unclear !== undefined || r.differs; // see warnings
  const what = signs ? message(r.input, r.subject.messageType, r.subject.hash, r.typed) : undefined;
  const name = h("bdi", null, plain(a.account));
  const otp = can.totp && !stopped ? h("input", { id: "totp", inputmode: "numeric", autocomplete: "one-time-code", maxlength: "8", pattern: "[0-9]*" }) : undefined;
  const wrong = h("p", { class: "wrong", role: "alert" });
  const approve = button("Approve", () => answer("approve"), "primary");
  const refuse = button("Refuse", askRefuse, "danger");
  const confirm = h("div", { class: "confirm", hidden: true },
    h("p", null, "Refuse this request? That cannot be taken back."),
    h("div", { class: "pair" }, button("Do not refuse", () => turn(false)), button("Yes, refuse", () => answer("refuse"), "danger full")));
  const pair = h("div", { class: "pair" }, refuse, approve);

  show(signs ? "Sign this?" : "Change who approves?",
    warnings(r),
    h("p", { class: "lead" }, h("strong", { class: "account" }, name), h("span", null, "asked for by ", r.subject.requesterName ? said(r.subject.requesterName) : code(r.subject.requester))),
    countdown(r.subject.expires, r.policy.expiry, now, () => over("expired", r, again)),
    signs ? h("section", { class: "card" }, h("h2", null, what.title), what.view) : policyChange(r.policy, r.next),
    details(r, signs),
    h("section", { class: "card" }, h("h2", null, "Who approves"), standing(a, r), h("details", null, h("summary", null, "The policy in full"), policyView(r.policy, hex(r.subject.policy)))),
    h("div", { class: "bar" },
      otp && h("div", { class: "otp" }, h("label", { for: "totp" }, "One-time code of your authenticator app"), otp),
      stopped ? h("p", { class: "note", id: "why" }, "This cannot be approved here: see above for the reason.") :
      !can.possible && h("p", { class: "note", id: "why" }, can.login && a.login === false ?
        "The policy asks that you log in as your identity first, within five minutes of scanning the code. Log in, and scan it again." :
        h("span", null, "The policy asks for more than this page can give. Use ", h("code", null, "mpckms device approve"), ", or the browser in which your passkey was enrolled.")),
      wrong, confirm, pair));
  if (stopped) can.possible = false;
  approve.disabled = !can.possible;
  if (approve.disabled) approve.setAttribute("aria-describedby", "why");

  function askRefuse() {
    turn(true);
  }
  function turn(on) {
    confirm.hidden = !on;
    pair.hidden = on;
    (on ? confirm.querySelector("button") : refuse).focus();
  }
  function busy(on) {
    for (const b of document.querySelectorAll(".bar button")) b.disabled = on || (b === approve && !can.possible);
  }

  async function answer(decision) {
    wrong.textContent = "";
    if (decision === "approve" && stopped) return;
    if (decision === "approve" && what && !what.seen()) {
      wrong.textContent = "Part of the message is not shown yet. Read all of it first.";
      document.querySelector(".more")?.focus();
      return;
    }
    if (decision === "approve" && otp && !/^\d{6,8}$/.test(otp.value.trim())) {
      wrong.textContent = "Enter the one-time code, six digits.";
      otp.focus();
      return;
    }
    busy(true);
    announce(decision === "approve" && can.keys.length ? "Waiting for your passkey …" : "Sending …");
    try {
      const signatures = await signed(device, r, decision, can);
      announce("Sending …");
      const body = { ticket: r.ticket, decision, signatures };
      if (decision === "approve" && otp) body.totp = otp.value.trim();
      const done = await call("approve/answer", body);
      await remember(r.subject.mount, r.subject.account, a.account, r.subject.publicKey);
      over(decision === "approve" ? "given" : "refused-by-you", r, again, done);
    } catch (err) {
      announce("");
      busy(false);
      wrong.textContent = passkey.cancelled(err) ? "The passkey was not used, and nothing was sent. Try again, or refuse." : sentence(err.message);
      if (otp) otp.value = "";
      if (err.status === 409 || err.status === 404) return over("closed", r, again, undefined, err.message);
      if (/scan the code anew|authenticate again/i.test(err.message)) return over("again", r, again, undefined, err.message);
    }
  }
}

// showOwn is for an approver who asked.
export function showOwn(again) {
  show("You asked for this yourself",
    notice("warn", h("p", null, "Nobody approves or refuses a request of their own. Show the code to another approver.")), actions(button("Scan another code", again, "primary")));
}

// signed signs the statement: with the device key, and for an approval with a
// passkey, where there is one.
async function signed(device, r, decision, can) {
  const hash = await sha256(marshalStatement({ ...r.subject, decision, approver: r.me.id }));
  const out = [];
  if (decision === "approve" && can.keys.length) {
    const hints = (k) => {
      const kept = device.passkeys?.find((p) => p.id === hex(k.id));
      return kept?.transports?.length ? { transports: kept.transports } : {};
    };
    const { key, ...assertion } = await passkey.use(can.keys, hash, hints);
    out.push({ key: hex(key.id), ...assertion });
  }
  out.push({ key: device.id, signature: await sign(device.key, deviceMessage(hash)) });
  return out;
}

// warnings are what has to be read before anything else. Those of kind "bad" stop the
// approval; refusing is always possible.
function warnings(r) {
  const out = [];
  if (r.unclear !== undefined) {
    out.push(notice("bad", h("p", null, h("strong", null, "This page cannot work out what would be signed, so it cannot be approved here."), " Nodes sign no such message either. Ask whoever wants it signed, or refuse."),
      h("p", null, "What is wrong: ", h("bdi", null, r.unclear))));
  }
  if (r.differs) {
    out.push(notice("bad", h("p", null, h("strong", null, "The server names another digest than the message below has."), " One of the two is not what it seems, so it cannot be approved here. Tell whoever runs the vault.")));
  }
  switch (r.seen) {
    case "key":
      out.push(notice("bad", h("p", null, h("strong", null, "The public key of this account is not the one that this device knows."), " An account's key never changes, so it cannot be approved here. Tell whoever runs the vault.")));
      break;
    case "name":
      out.push(notice("warn", h("p", null, h("strong", null, "Another account had this name when you last saw it."), " Ask whether it was renamed before you approve.")));
      break;
  }
  return out;
}

function details(r, signs) {
  const s = r.subject;
  let digested; // only what was computed here, and what differs from it
  if (r.digest) {
    digested = h("div", null, code(hex(r.digest)), r.differs && h("p", { class: "wrong" }, "The server says another one: " + plain(r.claimed)));
  }
  return h("section", { class: "card" }, h("h2", null, "Details"), facts(
    ["Public key", h("div", null, long(hex(s.publicKey)), r.seen === "new" && h("p", { class: "note" }, "This device sees the account for the first time. Compare its key with one from somewhere you trust."))],
    ["Algorithm", plain(s.algorithm)],
    signs && ["Message type", plain(s.messageType) + (s.hash && s.hash !== "none" ? ", hashed by " + plain(s.hash) : "")],
    signs && ["Digest", digested],
    signs && ["SHA-256 of the message", long(hex(s.message))],
    signs && s.derivationPath && ["Derivation path", code(s.derivationPath, 64)],
    signs && s.taprootTweak && ["Taproot tweak", long(plain(s.taprootTweak))],
    !signs && ["Epoch", String(s.epoch)],
    ["Asked for by", h("span", null, s.requesterName ? said(s.requesterName) : "", s.requesterName ? " " : "", code(s.requester, 64))],
    ["Expires", new Date(s.expires * 1000).toLocaleString()],
    ["Request", code(hex(s.request))],
    ["Account ID", long(hex(s.account))]));
}

// standing says how far the request is, and who may still answer.
function standing(a, r) {
  const refusals = Number(a.refusals) || 0;
  return h("div", null,
    h("p", null, h("strong", null, `${Number(a.approvals) || 0} of ${r.policy.quorum}`), r.policy.quorum === 1 ? " approval so far" : " approvals so far",
      refusals ? `, ${refusals} ${refusals === 1 ? "refusal" : "refusals"}.` : "."),
    h("ul", { class: "approvers" }, r.policy.approvers.map((p) => h("li", null, said(p.name, "span"), equal(p.id, r.me.id) ? h("span", { class: "tag" }, "you") : "", p.requesters.includes(r.subject.requester) ? h("span", { class: "tag" }, "asked for it") : ""))));
}

const actions = (...b) => h("div", { class: "bar" }, h("div", { class: "pair" }, b));

// over shows that there is nothing more to do, and why.
function over(state, r, again, done, text) {
  const n = Number(done?.approvals) || 0;
  const quorum = Number(done?.quorum) || r.policy.quorum;
  const rest = Math.max(0, quorum - n);
  const views = {
    given: ["You approved", "good", done?.state === "signed" ? "It is signed." : rest === 0 ? "There are enough approvals: it is being done." : `It needs ${rest} more ${rest === 1 ? "approval" : "approvals"}.`],
    "refused-by-you": ["You refused", "", done?.state === "refused" ? "The request is refused, and will not be done." : "Your refusal is noted. Others may still approve."],
    approved: ["Enough have approved", "good", "Nothing more is needed from you."],
    signed: ["Signed already", "good", "Enough people have approved, and it is done."],
    refused: ["Refused", "bad", "The request was refused, and will not be done."],
    expired: ["Expired", "bad", "The request was not approved in time. Whoever asked has to ask anew."],
    cancelled: ["Cancelled", "bad", "Whoever asked has withdrawn the request."],
    failed: ["It could not be done", "bad", "Enough people have approved, but it could not be done."],
    closed: ["Nothing to answer", "", text],
    again: ["Scan the code again", "warn", text],
  };
  const [title, kind, words] = views[state] ?? ["Over", "", "The request is " + plain(state) + "."];
  show(title, notice(kind, h("p", { class: "big" }, sentence(words))), facts(["Account", said(r.answer.account)], ["Request", code(hex(r.subject.request))]), actions(button("Scan another code", again, "primary")));
}
