// Keeps the page up to date. All HTML comes from the sidecar, which has escaped it; here it is only put in its place.
"use strict";

const LAST = 200;
const SILENCE = 5000; // milliseconds; something is told every second
const byId = (id) => document.getElementById(id);
const main = byId("main");
const local = new Intl.DateTimeFormat(document.documentElement.lang, {dateStyle: "short", timeStyle: "medium"});

/** Puts moments into the reader's own time zone. */
const localise = (root) => {
  for (const each of root.querySelectorAll("time[datetime]")) each.textContent = local.format(new Date(each.dateTime));
};

/** Returns a text without case and accents, as the sidecar does with what is searched. */
const folded = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

const fragment = (html) => {
  const template = document.createElement("template");
  template.innerHTML = html;
  localise(template.content);
  return template.content;
};

// --- The filter -------------------------------------------------------------------------------------------------------

const filter = () => {
  const text = folded(byId("q").value), failed = byId("failed").checked;
  let shown = 0;
  for (const row of byId("rows").rows) {
    row.hidden = !row.dataset.text.includes(text) || (failed && row.dataset.failed !== "yes");
    shown += row.hidden ? 0 : 1;
  }
  const said = byId("shown").dataset.text.replace("{shown}", shown).replace("{all}", byId("rows").rows.length);
  if (byId("shown").textContent !== said) byId("shown").textContent = said;
};

// --- The news ---------------------------------------------------------------------------------------------------------

/** Makes an element's content that of another. What is the same is left alone: it may be selected, or have the focus. */
const renew = (old, fresh) => {
  const there = [...old.childNodes], wanted = [...fresh.childNodes];
  for (const [index, node] of wanted.entries()) {
    const before = there[index];
    if (!before) old.append(node);
    else if (before.isEqualNode(node)) continue;
    else if (before.nodeName !== node.nodeName) before.replaceWith(node);
    else if (node.nodeType === Node.TEXT_NODE) before.data = node.data;
    else {
      for (const {name} of [...before.attributes]) if (!node.hasAttribute(name)) before.removeAttribute(name);
      for (const {name, value} of node.attributes) before.setAttribute(name, value);
      renew(before, node);
    }
  }
  for (const node of there.slice(wanted.length)) node.remove();
};

const show = (news) => {
  const rows = byId("rows");
  if (news.run !== main.dataset.run) {
    main.dataset.run = news.run;
    rows.replaceChildren();
  }
  for (const [id, html] of Object.entries(news.sections)) renew(byId(id), fragment(html));
  const known = Number(rows.rows[0]?.dataset.number ?? 0);
  for (const html of [...news.rows].reverse()) {
    const row = fragment(html).firstElementChild;
    if (Number(row.dataset.number) > known) rows.prepend(row);
  }
  const rest = [...rows.rows].slice(LAST).filter((row) => !row.contains(document.activeElement));
  for (const row of rest) row.remove();
  main.dataset.last = rows.rows[0]?.dataset.number ?? 0;
  filter();
};

let heard = new Date();

const setLive = (live) => {
  if (!live && byId("cut-off").hidden) {
    byId("cut-off").textContent = byId("cut-off").dataset.text.replace("{time}", local.format(heard));
  }
  byId("live").hidden = !live;
  byId("cut-off").hidden = live;
  main.classList.toggle("old", !live);
};

/** Listens, and listens again when that ends or nothing is heard any more, from the last request that is known. */
const listen = () => {
  const query = new URLSearchParams({run: main.dataset.run, last: main.dataset.last});
  const events = new EventSource("/events?" + query);
  let patience;
  const giveUp = () => {
    clearTimeout(patience);
    events.close();
    setLive(false);
    setTimeout(listen, 1000);
  };
  const wait = () => {
    clearTimeout(patience);
    patience = setTimeout(giveUp, SILENCE);
  };
  events.onmessage = (event) => {
    wait();
    heard = new Date();
    setLive(true);
    show(JSON.parse(event.data));
  };
  events.onerror = giveUp;
  wait();
};

// --- What a person does -----------------------------------------------------------------------------------------------

const refresh = async (event) => {
  event.preventDefault();
  const said = byId("refresh-said"), button = byId("refresh");
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  said.textContent = said.dataset.refreshing;
  try {
    const answer = await fetch("/refresh", {method: "POST"});
    said.textContent = answer.ok ? said.dataset.refreshed : said.dataset.refreshFailed;
  } catch {
    said.textContent = said.dataset.refreshFailed;
  }
  button.removeAttribute("aria-disabled");
};

const readyToCopy = (root) => {
  const button = root.querySelector("#copy");
  if (!button || !navigator.clipboard) return;
  button.hidden = false;
  button.onclick = async () => {
    await navigator.clipboard.writeText(root.querySelector("#curl").textContent);
    button.textContent = button.dataset.copied;
  };
};

/** Fetches what a request's own page shows; nothing where that page does not come. */
const detailsAt = async (url) => {
  try {
    const answer = await fetch(url, {signal: AbortSignal.timeout(SILENCE)});
    const content = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main");
    content.querySelector(".back").remove();
    localise(content);
    return content.childNodes;
  } catch {
    return null;
  }
};

/** Opens a request over the page; without this, its link leads to a page of its own. */
const open = async (event) => {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const dialog = byId("dialog"), close = document.createElement("button");
  close.textContent = dialog.dataset.close;
  close.onclick = () => dialog.close();
  dialog.replaceChildren(close, ...await detailsAt(link.href) ?? [dialog.dataset.failed]);
  readyToCopy(dialog);
  if (!dialog.open) dialog.showModal();
};

localise(document);
if (byId("rows")) {
  byId("rows").addEventListener("click", open);
  byId("refresh-form").addEventListener("submit", refresh);
  byId("filter").addEventListener("submit", (event) => { event.preventDefault(); filter(); });
  byId("filter").addEventListener("input", filter);
  byId("apply").hidden = true;
  filter();
  listen();
} else {
  readyToCopy(document);
}
