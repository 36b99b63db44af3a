// Shows how this site is served, by asking the server itself; and gives each command of the guide a button to copy it.
// The pages are complete without this file.
"use strict";

const SHOWN_FIELDS = ["etag", "last-modified", "cache-control", "content-type", "content-length", "content-range", "server"];
const SHOWN_BYTES_MAX = 16;

/** An element with children; strings become text, so nothing that a server sends is ever read as HTML. */
function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** `{etag}` in a field's value stands for the tag of the latest answer that had one. */
function fieldsOf(step, etag) {
  return Object.entries(step.headers).map(([name, value]) => [name, value.replace("{etag}", etag)]);
}

function hexadecimal(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
}

/** Send one request and return its row, and the tag that came with it. */
async function perform(step, etag) {
  const sent = fieldsOf(step, etag);
  // no-store: an answer of the browser's own cache would show nothing of the server.
  const response = await fetch(step.path, { method: step.method, headers: sent, cache: "no-store" });
  const body = new Uint8Array(await response.arrayBuffer());

  const request = element("td", "", element("code", "", `${step.method} ${step.path}`));
  if (sent.length) {
    const list = element("dl", "fields");
    for (const [name, value] of sent) list.append(element("div", "", element("dt", "", name), element("dd", "", value)));
    request.append(list);
  }
  request.append(element("p", "", step.meaning));

  const fields = element("dl", "fields");
  for (const name of SHOWN_FIELDS) {
    const value = response.headers.get(name);
    if (value !== null) fields.append(element("div", "", element("dt", "", name), element("dd", "", value)));
  }
  let received = body.length ? `${body.length} bytes` : "none";
  if (body.length && body.length <= SHOWN_BYTES_MAX) received += ` (${hexadecimal(body)})`;
  fields.append(element("div", "", element("dt", "", "body"), element("dd", "", received)));

  const kind = response.status < 400 ? "good" : "refused";
  const status = element("td", `status ${kind}`, String(response.status));
  const row = element("tr", "", request, status, element("td", "", fields));
  return { row, etag: response.headers.get("etag") || etag };
}

/** Perform the steps in turn and add their rows. Returns the latest tag. */
async function performAll(steps, etag, body) {
  for (const step of steps) {
    const done = await perform(step, etag);
    etag = done.etag;
    body.append(done.row);
  }
  return etag;
}

function buttonFor(label, action) {
  const made = element("button", "", label);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

async function demonstrate(place) {
  const report = (error) => {
    place.replaceChildren(element("p", "quiet", `The requests could not be sent: ${error.message}`));
  };
  const body = element("tbody", "");
  try {
    const answer = await fetch("data.json");
    const { caption, requests, refused } = await answer.json();
    const etag = await performAll(requests, "", body);
    const heads = ["Request", "Status", "Answer"].map((title) => {
      const head = element("th", "", title);
      head.scope = "col";
      return head;
    });
    const table = element("table", "", element("caption", "", caption), element("thead", "", element("tr", "", ...heads)), body);
    const again = buttonFor("Ask again", () => demonstrate(place));
    // Only when asked to: browsers report each refusal in their console as an error, and a page that is simply opened
    // should have none.
    const more = buttonFor("Ask for what is not there", () => {
      more.disabled = true;
      again.focus(); // A button that is disabled loses the focus, and the keyboard would begin at the top again.
      performAll(refused, etag, body).catch(report);
    });
    place.replaceChildren(element("div", "exchange", table), element("p", "again", again, more));
  } catch (error) {
    report(error);
  }
}

function makeCopyable(block) {
  const text = block.querySelector("code");
  if (location.protocol.startsWith("http")) {
    text.textContent = text.textContent.replaceAll("http://localhost:8080", location.origin);
  }
  if (!navigator.clipboard) return; // Browsers offer it on localhost and over TLS only.
  const button = buttonFor("Copy", async () => {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  const frame = element("div", "copyable");
  block.replaceWith(frame);
  frame.append(block, button);
}

const place = document.getElementById("demonstration");
if (place) demonstrate(place);
document.querySelectorAll("pre").forEach(makeCopyable);
