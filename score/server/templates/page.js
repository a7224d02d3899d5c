"use strict";
const $ = id => document.getElementById(id), url = location.pathname;
const el = (tag, text, attributes = {}) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text; for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v); return e; };
let card, tab, drawing, shown, history = [];
const fetchCard = async () => (await fetch(url, { headers: { Accept: "application/json" } })).json();
const bytes = n => { let at = 0; while (n >= 1000 && at < 4) { n /= 1000; at++; } return n.toFixed(at ? 1 : 0) + " " + ["B", "kB", "MB", "GB", "TB"][at]; };

// Requests that one click fills in: what was recorded with the model, or the task's own.
function makeExamples() {
  const found = card.task.example ? [["Example", card.task.example]] : [];
  for (const [title, document_] of found) {
    const button = el("button", title, { type: "button", title: "Fill in a request that the model answers" });
    button.onclick = () => { choose("json"); $("json").value = JSON.stringify(document_); snippets(); };
    $("examples").append(button);
  }
}

(async () => {
  card = await fetchCard();
  if (card.error) { refused(card.error); $("about").textContent = "the model is not loaded"; return; }
  showCard();
  for (const each of tabsFor()) {
    const button = el("button", TITLES[each], { type: "button", role: "tab", id: `tab-${each}`, "aria-controls": `panel-${each}`, "data-tab": each });
    button.onclick = () => choose(each);
    button.onkeydown = event => { const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key]; if (step) { const all = [...$("tabs").children], next = all[(all.indexOf(button) + step + all.length) % all.length]; next.focus(); next.click(); } };
    $("tabs").append(button);
  }
  if (tabsFor().includes("draw")) makeDrawing();
  if (tabsFor().includes("inputs")) makeInputs();
  if (tabsFor().includes("numbers")) for (let at = 0; at < +spec().dims[1]; at++) { const label = el("label", String(at)); label.append(el("input", undefined, { type: "number", step: "any", value: "0.5", "aria-label": `value ${at}` })); $("numbers").append(label); }
  makeDrop(); makeExamples(); choose(tabsFor()[0]);
  $("send").onclick = send; $("clear").onclick = wipe; $("kind").onchange = snippets;
  for (const each of ["json", "text", "question", "context", "query", "texts", "labels", "parameters", "numbers", "white"]) $(each).addEventListener("input", snippets);
  $("copy").onclick = async () => { try { await navigator.clipboard.writeText($("code").textContent); $("copied").textContent = "copied"; } catch { getSelection().selectAllChildren($("code")); $("copied").textContent = "selected: press Ctrl+C"; } };
  poll();
})();
