// The chat box and the state of the server. Whatever models and users have written goes into textContent alone.

const at = (id) => document.getElementById(id);
const PARTS = ["codes", "scales", "outliers", "sinks", "warm_up", "bypass", "tail", "statistics", "padding"];
const POLL_MS = 1000;
let messages = [];
let underWay = null; // an AbortController, while an answer is written

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

function size(bytes) {
  for (const [unit, n] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (bytes >= n) return `${(bytes / n).toFixed(1)} ${unit}`;
  }
  return `${bytes} B`;
}

function number(n, digits = 0) {
  return n == null ? "" : n.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function headers() {
  const key = sessionStorage.getItem("key");
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function problemOf(answer) {
  if (answer.status === 401) at("key-form").hidden = false;
  try {
    return (await answer.json()).error.message;
  } catch {
    return `the server answered ${answer.status}`;
  }
}

// --- chat ---

async function* eventsOf(body) {
  let held = "";
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const whole = held.split("\n\n");
    held = whole.pop();
    for (const event of whole) {
      const data = event.split("\n").find((line) => line.startsWith("data: "));
      if (data && data !== "data: [DONE]") yield JSON.parse(data.slice(6));
    }
  }
}

function turn(role, text) {
  const shown = element("div", text, `turn ${role}`);
  at("turns").append(shown);
  shown.scrollIntoView({ block: "end" });
  return shown;
}

async function ask(question) {
  const conversation = (messages = [...messages, { role: "user", content: question }]);
  turn("user", question);
  const shown = turn("assistant", "");
  const facts = element("p", "", "facts");
  shown.after(facts);
  underWay = new AbortController();
  at("stop").disabled = false;
  at("send").disabled = true;
  let text = "";
  try {
    const answer = await fetch("v1/chat/completions", {
      method: "POST",
      signal: underWay.signal,
      headers: { ...headers(), "Content-Type": "application/json" },
      body: JSON.stringify({
        messages: conversation,
        stream: true,
        stream_options: { include_usage: true },
        temperature: Number(at("temperature").value),
        max_completion_tokens: Number(at("max-tokens").value),
      }),
    });
    if (!answer.ok) throw new Error(await problemOf(answer));
    let first = 0;
    for await (const event of eventsOf(answer.body)) {
      if (event.error) throw new Error(event.error.message);
      const piece = event.choices?.[0]?.delta?.content ?? "";
      first ||= piece ? performance.now() : 0;
      text += piece;
      shown.textContent = text;
      if (event.usage) {
        const { prompt_tokens, completion_tokens, prompt_tokens_details } = event.usage;
        const seconds = (performance.now() - first) / 1000;
        const speed = completion_tokens > 1 ? `, ${number((completion_tokens - 1) / seconds, 1)} tokens/s` : "";
        facts.textContent = `${number(prompt_tokens)} tokens read, ${number(prompt_tokens_details.cached_tokens)} ` +
          `of them known; ${number(completion_tokens)} written${speed}`;
      }
      at("turns").scrollTop = at("turns").scrollHeight;
    }
  } catch (problem) {
    const stopped = problem.name === "AbortError";
    facts.textContent = stopped ? "stopped" : problem.message;
    facts.classList.toggle("failed", !stopped);
  }
  if (messages === conversation) { // and no new chat was begun
    messages = text ? [...conversation, { role: "assistant", content: text }] : conversation.slice(0, -1);
  }
  underWay = null;
  at("stop").disabled = true;
  at("send").disabled = false;
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = at("question").value.trim();
  if (!question || underWay) return;
  at("question").value = "";
  ask(question);
});
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("ask").requestSubmit();
  }
});
at("stop").addEventListener("click", () => underWay?.abort());
at("clear").addEventListener("click", () => {
  underWay?.abort();
  messages = [];
  at("turns").replaceChildren();
});
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", at("key").value);
  at("key").value = "";
  at("key-form").hidden = true;
  look();
});

// --- state ---

// parts: [name, bytes]. of: bytes of the whole bar.
function fill(bar, parts, of) {
  bar.replaceChildren(...parts.map(([name, bytes], i) => {
    const part = element("span", "", `c${i}`);
    part.style.width = `${of > 0 ? (100 * bytes) / of : 0}%`;
    part.title = `${name}: ${size(bytes)}`;
    return part;
  }));
  return bar;
}

function legend(where, parts) {
  where.replaceChildren(...parts.map(([text, i]) => {
    const one = element("span");
    if (i != null) one.append(element("i", "", `c${i}`));
    one.append(text);
    return one;
  }));
}

function showMemory({ limit, requests, kept, prefix_cache, prefix_cache_limit }) {
  const parts = [["texts under way", requests], ["kept for prompts to come", kept], ["prefix cache", prefix_cache]];
  const whole = limit + prefix_cache_limit;
  fill(at("memory"), parts, Math.max(whole, requests + kept + prefix_cache));
  legend(at("memory-text"), [
    ...parts.map(([name, bytes], i) => [`${name} ${size(bytes)}`, i]),
    [`of ${size(whole)}, ${size(prefix_cache_limit)} of it for the prefix cache`],
  ]);
}

function row(session) {
  const made = element("tr");
  const name = session.request == null ? "" : ` ${session.request}${session.choice ? `.${session.choice}` : ""}`;
  const bytes = element("td", size(session.kv_bytes));
  if (session.bytes) bytes.append(fill(element("div", "", "bar small"), PARTS.map((part) => [part, session.bytes[part]]), session.kv_bytes));
  made.append(
    element("td", session.state + name),
    element("td", number(session.tokens) + (session.state === "reading" ? ` of ${number(session.prompt_tokens)}` : "")),
    element("td", number(session.tokens_per_s, 1)),
    element("td", number(session.bits_per_value, 2)),
    bytes,
    element("td", (session.reused ?? []).map(({ tokens, from }) => `${number(tokens)}: ${from}`).join(", ")),
  );
  return made;
}

function showTree({ pieces, more }) {
  const root = element("ul");
  const open = [root];
  for (const piece of pieces) {
    open.length = piece.depth + 1;
    const line = element("li", `tokens ${number(piece.first_token)} to ${number(piece.first_token + piece.n_tokens - 1)}, ` +
      `${size(piece.bytes)}${piece.in_use ? ", in use" : ""}`);
    const below = element("ul");
    line.append(below);
    open.at(-1).append(line);
    open.push(below);
  }
  at("tree").replaceChildren(pieces.length ? root : element("p", "nothing yet"));
  if (more) at("tree").append(element("p", `and ${number(more)} more`));
}

function show(status) {
  at("model").textContent = `${status.model}: ${status.description}; ${status.kv}, context ${number(status.n_ctx)}`;
  showMemory(status.memory);
  const { sessions, waiting, counters, store } = status;
  at("queue").textContent = `${sessions.filter((one) => one.state !== "kept").length} under way, ${number(waiting)} waiting`;
  at("sessions").replaceChildren(...sessions.map(row));
  legend(at("parts"), sessions.some((one) => one.bytes) ? PARTS.map((part, i) => [part.replace("_", "-"), i]) : []);
  showTree(status.prefix_tree);
  const said = (counts) => Object.entries(counts).map(([name, n]) => `${name.replaceAll("_", " ")} ${number(n)}`).join(", ");
  at("counters").textContent = said(counters);
  at("store").textContent = store ? `store: ${said(store)}` : "";
}

function trouble(text) {
  at("trouble").textContent = text;
  at("trouble").hidden = !text;
}

async function look() {
  try {
    const answer = await fetch("status", { headers: headers(), cache: "no-store" });
    if (!answer.ok) throw new Error(await problemOf(answer));
    show(await answer.json());
    trouble("");
  } catch (problem) {
    trouble(problem instanceof TypeError ? "the server cannot be reached" : problem.message);
  }
}

for (;;) {
  if (!document.hidden) await look();
  await new Promise((done) => setTimeout(done, POLL_MS));
}
