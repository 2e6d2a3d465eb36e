// Typed data (EIP-712) as tables of fields: the nodes that eip712.js has checked and
// hashed, all of them and nothing else.

import { code, h, plain } from "./view.js";

const indented = 4; // levels that are set in; a small screen has no room for more

// typedView shows a document; sent is the view of its text as it was sent.
export function typedView(doc, sent) {
  return h("div", { class: "typed" },
    h("h3", null, "For the application"), table(doc.domain, "domain", 0),
    h("h3", null, plain(doc.primaryType)), table(doc.message, "message", 0),
    h("details", null, h("summary", null, "The document as it was sent"), sent));
}

// Deeper levels are headed by their place in the document instead.
const short = (path) => (path.length <= 160 ? path : path.slice(0, 60) + " … " + path.slice(-97));
const place = (path, level) => level > indented && h("p", { class: "note" }, "In ", h("code", null, short(path)));
const flat = (level) => (level > indented ? " flat" : "");

function table(node, path, level) {
  return h("div", null, place(path, level),
    h("dl", { class: "fields" + flat(level) }, node.members.map(({ name, node: n }) =>
      h("div", null, h("dt", null, name, " ", h("span", { class: "type" }, n.type)), h("dd", null, show(n, `${path}.${name}`, level + 1))))));
}

function show(node, path, level) {
  if (node.members) return table(node, path, level);
  if (!node.items) return value(node);
  if (node.items.length === 0) return h("span", { class: "nothing" }, "an empty list");
  return h("ol", { class: "items" + flat(level) }, node.items.map((n, i) => h("li", null, show(n, `${path}[${i}]`, level + 1))));
}

// value shows a text in a frame, so that nothing in it passes for the page's words.
function value(node) {
  switch (node.kind) {
    case "string":
      return node.value === "" ? h("span", { class: "nothing" }, "an empty text") : h("bdi", { class: "string" }, plain(node.value, true));
    case "bool":
      return node.value;
    case "uint":
    case "int":
      return h("span", null, digits(node.value), node.written && h("span", { class: "note" }, " written as ", h("code", null, node.written)));
  }
  const body = node.value.slice(2);
  if (body === "") return h("span", { class: "nothing" }, "no bytes");
  return body.length > 256 ? h("code", null, node.value) : h("code", null, "0x", body.match(/.{1,4}/g).map((g) => h("span", null, g)));
}

// digits sets the digits of a long number in groups of three; the text stays the
// number. Which unit it counts, only the contract knows.
function digits(s) {
  if (s.length < 6) return s;
  const groups = s.match(/^-?\d{1,3}(?=(?:\d{3})*$)|\d{3}/g);
  return h("span", { class: "number" }, groups.map((g) => h("span", null, g)));
}
