// The camera, and the reading of codes from its pictures.

import { button, h, onLeave } from "./view.js";

const side = 720; // pixels of the square that is looked at

// scanner is a view of the camera that calls found with every text it reads, until
// found returns true; failed is called where there is no camera to look through.
export function scanner(found, failed) {
  const video = h("video", { playsinline: true, muted: true, autoplay: true, "aria-label": "Picture of the camera" });
  const box = h("div", { class: "camera" }, video, h("div", { class: "frame", "aria-hidden": "true" }));
  let stream;
  let ended = false;
  const stop = () => {
    ended = true;
    stream?.getTracks().forEach((t) => t.stop());
  };
  onLeave(box, stop);
  run().catch((err) => {
    stop();
    failed(err);
  });
  return box;

  async function run() {
    if (!navigator.mediaDevices?.getUserMedia) throw new Error("This browser gives no camera to this page.");
    // The reader is large, and only this view needs it.
    const reading = import("./qr/decode.js");
    stream = await navigator.mediaDevices.getUserMedia({ audio: false, video: { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 1280 } } });
    if (ended) return stop();
    video.muted = true;
    video.srcObject = stream;
    await video.play();
    const { decodeQR } = await reading;
    const canvas = document.createElement("canvas");
    const picture = canvas.getContext("2d", { willReadFrequently: true });
    let last = "";
    while (!ended) {
      const text = look(video, canvas, picture, decodeQR);
      if (text && text !== last) {
        last = text;
        if (found(text)) return stop();
      }
      await new Promise((resolve) => setTimeout(resolve, 80));
    }
  }
}

// look reads the middle square of what the camera sees now.
function look(video, canvas, picture, decodeQR) {
  const { videoWidth: w, videoHeight: h } = video;
  if (!w || !h) return undefined;
  const square = Math.min(w, h);
  canvas.width = canvas.height = Math.min(side, square);
  picture.drawImage(video, (w - square) / 2, (h - square) / 2, square, square, 0, 0, canvas.width, canvas.height);
  try {
    return decodeQR(picture.getImageData(0, 0, canvas.width, canvas.height));
  } catch {
    return undefined; // no code in it
  }
}

// why says in words why there is no picture.
export function why(err) {
  switch (err?.name) {
    case "NotAllowedError":
      return "This page may not use the camera. Allow it in the browser's settings for this site, or paste the link instead.";
    case "NotFoundError":
    case "OverconstrainedError":
      return "No camera was found. Paste the link instead.";
    case "NotReadableError":
      return "The camera is in use by something else. Close that, or paste the link instead.";
  }
  return (err?.message ?? "The camera cannot be used.") + " Paste the link instead.";
}

// pasting is a field for a link, for those who have no camera or cannot aim it.
export function pasting(found) {
  const input = h("input", { type: "text", id: "link", inputmode: "url", autocomplete: "off", autocapitalize: "off", spellcheck: "false" });
  const wrong = h("p", { class: "wrong", role: "alert" });
  const go = () => {
    if (!found(input.value.trim())) wrong.textContent = "That is not the link of a request or of an enrolment.";
  };
  input.addEventListener("keydown", (e) => e.key === "Enter" && go());
  return h("details", { class: "paste" }, h("summary", null, "Paste a link instead"),
    h("label", { for: "link" }, "Link from a display or a message"), input, wrong, button("Open", go));
}
