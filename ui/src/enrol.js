// Enrolment of this browser as an approver's device: a device key is made here, and a
// passkey, and people compare a short code before either counts.

import { enrolCode, enrolMessage } from "./approval.js";
import { call, mount, now } from "./api.js";
import { base64, hex, unhex } from "./bytes.js";
import { dropDevice, keepDevice, makeDevice, sign } from "./keys.js";
import * as passkey from "./passkey.js";
import { announce, button, code, countdown, facts, h, notice, onLeave, plain, said, sentence, show } from "./view.js";

// begin fetches an enrolment by its link's ID and secret, and says what will happen.
export async function begin(link, home) {
  show("Enrolling this device", h("p", null, "Asking the server …"));
  let e;
  try {
    e = await call("approve/enrol", link);
  } catch (err) {
    return show("This link does not enrol", notice("bad", h("p", null, err.status === 403 || err.status === 404 ? "It is wrong, or has expired. Ask for a new one." : sentence(err.message))), h("div", { class: "bar" }, button("Back", home)));
  }
  const name = h("input", { id: "device", type: "text", maxlength: "64", autocomplete: "off", value: guess() });
  const wrong = h("p", { class: "wrong", role: "alert" });
  let made; // keys that were offered, and what was sent
  const withPasskey = Boolean(e.rp_id) && passkey.supported();
  const go = button("Enrol this device", start, "primary");
  show("Enrol this device",
    h("p", { class: "lead" }, h("span", null, "This browser becomes a device of the approver"), h("strong", { class: "account" }, h("bdi", null, plain(e.approver)))),
    h("section", { class: "card" }, h("h2", null, "What will happen"),
      h("ol", { class: "steps" },
        h("li", null, "A device key is made here. It never leaves this browser, and is lost if its data is deleted."),
        withPasskey ? h("li", null, "You make a passkey: your face, fingerprint or PIN will be asked for with every approval.") : h("li", null, "No passkey is made: ", e.rp_id ? "this browser has none." : "the server has no address for this page yet."),
        h("li", null, "You get a short code, and whoever enrols you compares it. Only then does this device count."))),
    h("section", { class: "card" }, h("label", { for: "device" }, "Name of this device"), name, h("p", { class: "note" }, "Others see it in policies.")),
    h("div", { class: "bar" }, wrong, go));

  async function start() {
    wrong.textContent = "";
    const label = name.value.trim();
    if (!label || new TextEncoder().encode(label).length > 128) {
      wrong.textContent = "Give the device a name.";
      return name.focus();
    }
    go.disabled = true;
    try {
      await offer(label);
    } catch (err) {
      announce("");
      go.disabled = false;
      wrong.textContent = passkey.cancelled(err) ? "No passkey was made, and nothing was sent. Try again." : err.name === "SecurityError" ? `A passkey for ${plain(e.rp_id)} cannot be made on this page. Whoever runs the vault has to mend its rp_id.` : sentence(err.message);
    }
  }

  // offer makes the keys, keeps the device key, and only then sends the public halves:
  // a device that counts is never without its key. What was sent once is sent again as
  // it was, since the first answer may have been lost on its way.
  async function offer(label) {
    const again = Boolean(made);
    made ??= await make(label);
    announce("Sending …");
    try {
      await call("approve/enrol/finish", made.body);
    } catch (err) {
      const { state } = again && err.status === 409 ? await call("approve/enrol/state", link) : {};
      if (state !== "offered" && state !== "confirmed") {
        if (err.status !== 0) {
          await dropDevice(made.device.id); // refused: the key is good for nothing
          made = undefined;
        }
        throw err;
      }
    }
    history.replaceState(null, "", location.pathname);
    wait(made.device, home);
  }

  async function make(label) {
    const key = await makeDevice();
    let p;
    if (withPasskey) {
      announce("Waiting for your passkey …");
      p = await passkey.register(e, e.approver);
    }
    const message = enrolMessage(unhex(e.mount_id, 16), unhex(link.enrolment, 16), unhex(e.approver_id, 16), [key.id, ...(p ? [p.id] : [])]);
    const device = {
      id: hex(key.id), mount: e.mount_id, address: mount, key: key.key, public: key.public, approver: e.approver, approverID: e.approver_id,
      name: label, passkeys: p ? [{ id: hex(p.id), transports: p.transports }] : [], created: Date.now(),
      pending: { ...link, code: await enrolCode(message), expires: Math.floor(Date.parse(e.expires_time) / 1000), total: Math.ceil((Date.parse(e.expires_time) - now()) / 1000) },
    };
    await keepDevice(device);
    navigator.storage?.persist?.().catch(() => {});
    const body = { ...link, device: { name: label, public: base64(key.public), signature: await sign(key.key, message) } };
    if (p) body.passkey = { name: label, ...p.offer };
    return { device, body };
  }
}

// wait shows the code of an enrolment that is not confirmed yet, until it is.
export function wait(d, home) {
  const p = d.pending;
  const shown = h("p", { class: "bigcode" }, p.code);
  show("Compare this code",
    h("p", null, "Tell this code to whoever enrols you, in person or on the phone. They enter it, and this device counts from then on."),
    shown,
    h("p", { class: "note" }, "They confirm it with ", h("code", null, `vault write ${address(d)}approvers/${plain(d.approver)}/confirm code=${p.code}`), " or ", h("code", null, "mpckms approver confirm"), ". If they see another code, somebody else used your link: stop."),
    p.expires ? countdown(p.expires, p.total, now, () => ended()) : undefined,
    facts(["Approver", said(d.approver)], ["This device", said(d.name)], ["ID of its key", code(d.id)]));
  let timer;
  let over = false;
  onLeave(shown, () => {
    over = true;
    clearTimeout(timer);
  });
  const look = async () => {
    try {
      const { state } = await call("approve/enrol/state", { enrolment: p.enrolment, secret: p.secret });
      if (over) return;
      if (state === "confirmed") return confirmed();
      if (state === "ended") return ended();
      announce("");
    } catch (err) {
      if (over) return;
      if (err.status === 403 || err.status === 404) return ended();
      announce(sentence(err.message));
    }
    timer = setTimeout(look, 2000);
  };
  look();

  async function confirmed() {
    const { pending, ...device } = d;
    await keepDevice(device);
    show("This device is enrolled", notice("good", h("p", { class: "big" }, "It can approve requests of ", said(d.approver), " once a policy names it.")),
      facts(["This device", said(d.name)], ["ID of its key", code(d.id)]),
      h("div", { class: "bar" }, button("Done", home, "primary")));
  }
  async function ended() {
    await dropDevice(d.id);
    show("The enrolment has ended", notice("bad", h("p", null, "It was not confirmed in time, or a wrong code was entered too often. This device does not count. Ask for a new link.")),
      h("div", { class: "bar" }, button("Back", home)));
  }
}

// address is the mount's path as the command line takes it.
const address = (d) => decodeURIComponent(new URL(d.address).pathname.replace(/^\/v1\//, ""));

// guess proposes a name for this device.
function guess() {
  const s = navigator.userAgent;
  for (const [what, name] of [[/iPhone/, "iPhone"], [/iPad/, "iPad"], [/Android/, "Android phone"], [/Macintosh/, "Mac"], [/Windows/, "Windows computer"], [/CrOS/, "Chromebook"]]) if (what.test(s)) return name;
  return "Computer";
}
