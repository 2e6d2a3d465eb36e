// A strict reader of JSON (RFC 8259) for what is signed. JSON.parse keeps the last of
// duplicate keys and rounds numbers beyond 2^53: it would show another document than
// the one that is hashed. Here a duplicate key is an error, as are half a surrogate
// pair, deep nesting and too many values; a number stays the text that it is written
// as. Go's side is mpc/eip712/json.go, and both have the same bounds.

import { plain } from "./view.js";

export const maxDepth = 64; // objects and lists inside one another
export const maxValues = 10_000; // objects and lists included

// Numeral is a number as it is written: "1", "-0", "1e3".
export class Numeral {
  constructor(text) {
    this.text = text;
  }
}

// Unreadable says what is wrong with a document and where, and never repeats its
// values. Names on the way there are whoever's who asks: they stand in quotes, and
// are cut off.
export class Unreadable extends Error {
  constructor(what, path = "") {
    const shown = path.length > 160 ? path.slice(0, 160) + "…" : path;
    super((path && `“${plain(shown)}” `) + what);
    this.what = what;
    this.path = path;
  }
}

// inside runs f, and puts what it finds wrong below a member or, as "[3]", an element.
export function inside(step, f) {
  try {
    return f();
  } catch (err) {
    if (!(err instanceof Unreadable)) throw err;
    const dot = err.path && !err.path.startsWith("[") ? "." : "";
    throw new Unreadable(err.what, step + dot + err.path);
  }
}

const notJSON = "The document is not JSON.";
const escapes = new Map(Object.entries({ '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" }));

// parse reads one value and nothing behind it: Map, Array, string, Numeral, boolean
// and null. A Map has its members in the document's order.
export function parse(s) {
  let at = 0;
  let count = 0;

  // take moves past what a sticky expression finds here, and returns it.
  const take = (expression) => {
    expression.lastIndex = at;
    const found = expression.exec(s);
    if (!found) throw new Unreadable(notJSON);
    at += found[0].length;
    return found[0];
  };
  const space = () => take(/[ \t\n\r]*/y);
  const is = (c) => {
    if (s[at] !== c) return false;
    at++;
    return true;
  };
  const need = (c) => {
    if (!is(c)) throw new Unreadable(notJSON);
  };

  function string() {
    need('"');
    const parts = [];
    for (;;) {
      parts.push(take(/[^"\\\u0000-\u001f]*/y));
      if (is('"')) break;
      need("\\");
      const c = s[at];
      if (is("u")) parts.push(String.fromCharCode(parseInt(take(/[0-9a-fA-F]{4}/y), 16)));
      else if (escapes.has(c)) parts.push(escapes.get(s[at++]));
      else throw new Unreadable(notJSON);
    }
    const out = parts.join("");
    if (/\p{Cs}/u.test(out)) throw new Unreadable("The document has a string with half a surrogate pair, which is not Unicode.");
    return out;
  }

  function list(depth) {
    const out = [];
    space();
    if (is("]")) return out;
    do {
      out.push(inside(`[${out.length}]`, () => value(depth)));
      space();
    } while (is(","));
    need("]");
    return out;
  }

  function object(depth) {
    const out = new Map();
    space();
    if (is("}")) return out;
    do {
      space();
      const key = string();
      if (out.has(key)) throw new Unreadable("is there twice.", key);
      space();
      need(":");
      out.set(key, inside(key, () => value(depth)));
      space();
    } while (is(","));
    need("}");
    return out;
  }

  // value reads what stands inside depth objects and lists.
  function value(depth) {
    if (++count > maxValues) throw new Unreadable(`is one value too many: a document has at most ${maxValues}, lists and objects included.`);
    space();
    const c = s[at];
    if (c === '"') return string();
    if (c === "{" || c === "[") {
      if (depth === maxDepth) throw new Unreadable(`is nested deeper than ${maxDepth} levels.`);
      at++;
      return c === "{" ? object(depth + 1) : list(depth + 1);
    }
    if (c === "t" || c === "f" || c === "n") return { true: true, false: false, null: null }[take(/true|false|null/y)];
    return new Numeral(take(/-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y));
  }

  const out = value(0);
  space();
  if (at !== s.length) throw new Unreadable(notJSON);
  return out;
}
