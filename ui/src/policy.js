// Policies, and what one changes about another, for people.

import { equal, hex } from "./bytes.js";
import { code, h, minutes, notice, plain, said } from "./view.js";

const kinds = { device: "device key", passkey: "passkey", certificate: "certificate", totp: "one-time code", login: "login as identity" };

// span is an expiry in words.
const span = (s) => (s % 60 === 0 && s < 3600 ? `${s / 60} min` : minutes(s));

const rules = (p) => `${p.quorum} of ${p.approvers.length} ${p.approvers.length === 1 ? "approver" : "approvers"}, each with ${p.factors} factors (${p.signatureFactors} of them verified by the nodes), within ${span(p.expiry)}`;

// policyView shows all of a policy: who, with which keys, and their IDs.
export function policyView(p, hash) {
  return h("div", { class: "policy" },
    h("p", null, rules(p) + "."),
    p.approvers.map((a) => h("div", { class: "who" },
      h("h4", null, said(a.name, "span")),
      h("ul", { class: "keys" },
        a.keys.map((k) => h("li", null, h("span", { class: "kind" }, kinds[k.kind]), " ", said(k.name, "span"), k.rpID ? h("span", { class: "note" }, " for " + plain(k.rpID)) : "", code(hex(k.id)))),
        a.checked.map((k) => h("li", null, h("span", { class: "kind" }, kinds[k]), h("span", { class: "note" }, " checked by the server")))),
      h("p", { class: "note" }, "Asks for signatures as: ", a.requesters.map((s) => plain(s)).join(", ")))),
    hash && h("p", { class: "note" }, "Hash ", code(hash)));
}

// changes lists what a new policy changes, each with whether it makes approving
// easier: what people must not overlook stands out.
export function changes(old, next) {
  const out = [];
  const number = (what, a, b) => a !== b && out.push([`${what}: ${a} → ${b}`, b < a]);
  number("Approvals needed", old.quorum, next.quorum);
  number("Factors of each", old.factors, next.factors);
  number("Factors that nodes verify", old.signatureFactors, next.signatureFactors);
  if (old.expiry !== next.expiry) out.push([`Time to approve: ${span(old.expiry)} → ${span(next.expiry)}`, next.expiry > old.expiry]);
  for (const b of next.approvers) {
    const a = old.approvers.find((x) => equal(x.id, b.id));
    if (!a) {
      out.push([`New approver: ${plain(b.name)}`, true]);
      continue;
    }
    if (a.name !== b.name) out.push([`${plain(a.name)} is now called ${plain(b.name)}`, true]);
    for (const k of b.keys) {
      const was = a.keys.find((x) => equal(x.id, k.id));
      if (!was) out.push([`${plain(b.name)}: new ${kinds[k.kind]} “${plain(k.name)}”, ${hex(k.id)}`, true]);
      else if (was.name !== k.name || was.origins.join(" ") !== k.origins.join(" ")) out.push([`${plain(b.name)}: ${kinds[k.kind]} “${plain(was.name)}” is now “${plain(k.name)}”${k.origins.length ? ", for " + plain(k.origins.join(", ")) : ""}`, true]);
    }
    for (const k of a.keys) if (!b.keys.some((x) => equal(x.id, k.id))) out.push([`${plain(b.name)}: ${kinds[k.kind]} “${plain(k.name)}” removed`, false]);
    for (const k of b.checked) if (!a.checked.includes(k)) out.push([`${plain(b.name)}: may use ${kinds[k]}`, true]);
    for (const k of a.checked) if (!b.checked.includes(k)) out.push([`${plain(b.name)}: may no longer use ${kinds[k]}`, false]);
    for (const s of a.requesters) if (!b.requesters.includes(s)) out.push([`${plain(b.name)}: may approve what ${plain(s)} asks for`, true]);
    for (const s of b.requesters) if (!a.requesters.includes(s)) out.push([`${plain(b.name)}: asks for signatures as ${plain(s)} as well`, false]);
  }
  for (const a of old.approvers) if (!next.approvers.some((x) => equal(x.id, a.id))) out.push([`No longer an approver: ${plain(a.name)}`, false]);
  return out;
}

// policyChange shows what changes first, and both policies in full.
export function policyChange(old, next) {
  const list = changes(old, next);
  return h("section", { class: "card" }, h("h2", null, "What changes"),
    list.length === 0 ? h("p", null, "Nothing but the order. Its shares are made anew.") : h("ul", { class: "changes" }, list.map(([s, weaker]) => h("li", { class: weaker ? "weaker" : "" }, s))),
    list.some(([, weaker]) => weaker) && notice("warn", h("p", null, "What is marked lets more people or keys approve, or asks less of them. Compare IDs of new keys with those on the devices themselves.")),
    h("div", { class: "two" },
      h("div", null, h("h3", null, "Now"), policyView(old)),
      h("div", null, h("h3", null, "Then"), policyView(next))));
}
