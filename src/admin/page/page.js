// The dashboard: reads one stream of events and says in words and lines what it means. Nothing is steered from here.
// Texts are only ever set as text, so nothing that a proxy has heard can become markup.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);

  // ---- Words -------------------------------------------------------------------------------------------------------

  const digits = (n, most, least = 0) =>
    n.toLocaleString("en", { maximumFractionDigits: most, minimumFractionDigits: least });
  const percent = (part) => {
    const value = part * 100;
    return `${digits(value, value !== 0 && Math.abs(value) < 1 ? 2 : 1)}\u00a0%`;
  };
  const signed = (n) => (n < -0.005 ? "−" : "+") + digits(Math.abs(n), 2, 2);
  const many = (n, what) => `${digits(n, 0)} ${what}${n === 1 ? "" : "s"}`;
  const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");
  const time = (text) => Date.parse(text) / 1000;
  const ms = (seconds) => (seconds === null ? "–" : `${digits(seconds * 1000, seconds < 0.01 ? 1 : 0)} ms`);
  const took = (seconds) => {
    if (seconds < 60) return `${digits(seconds, seconds < 10 ? 1 : 0)} s`;
    const minutes = Math.floor(seconds / 60);
    return minutes < 60 ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  };
  // Points in time within what the controller says.
  const local = (text) => text.replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, (at) => clock(time(at)));
  const upper = (text) => text.charAt(0).toUpperCase() + text.slice(1);
  const SIGNS = { good: "✓", bad: "!", warn: "!", calm: "→" };
  const TONES = { promoted: "good", aborted: "bad", running: "calm", withdrawn: "calm", superseded: "calm" };
  const ROLES = { s: "stable", c: "canary", e: "experiment", "": "gone" };

  // ---- The document ------------------------------------------------------------------------------------------------

  function h(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (typeof value === "function") element.addEventListener(name, value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  // Nothing is touched that has not changed: whoever reads, selects or tabs here is not disturbed each second.
  function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  // Children by key: those that stay keep their elements, and so the focus.
  function keep(parent, items, key, create, update) {
    const before = parent.kept || new Map();
    const now = new Map();
    let place = parent.firstChild;
    for (const item of items) {
      const name = key(item);
      const element = before.get(name) || create(item);
      before.delete(name);
      now.set(name, element);
      if (element === place) place = place.nextSibling;
      else parent.insertBefore(element, place);
      if (update) update(element, item);
    }
    for (const element of before.values()) element.remove();
    parent.kept = now;
  }

  // A fact says where it comes from.
  function field(path, analysis) {
    if (!path) return null;
    return h("button", { type: "button", class: "field", click: () => openField(path, analysis), title: "Where this comes from" }, path);
  }

  function openField(path, analysis) {
    const [namespace, name] = (S.rollout ? S.rollout.name : "").split("/");
    say($("field-path"), path);
    say($("field-of"), name ? `of Rollout ${namespace}/${name}` : "");
    const quoted = path.replace(/\[type=([A-Za-z]+)\]/, '[?(@.type=="$1")]');
    // The controller takes an analysis that has ended out of the Rollout; it has its words for longer.
    if (analysis) {
      say($("field-get"), `kubectl -n ${namespace || "NAMESPACE"} get analysisrun ${analysis} -o jsonpath='{.status.message}'`);
      say($("field-explain"), "kubectl explain analysisrun.status.message");
    } else {
      say($("field-get"), `kubectl -n ${namespace || "NAMESPACE"} get rollout ${name || "NAME"} -o jsonpath='{.${quoted}}'`);
      say($("field-explain"), `kubectl explain rollout.${path.replace(/\[[^\]]*\]/g, "")}`);
    }
    $("field").showModal();
  }

  document.addEventListener("click", (event) => {
    const from = event.target.closest("[data-copy]");
    if (!from) return;
    const code = $(from.dataset.copy);
    const done = () => { say(from, "Copied"); setTimeout(() => say(from, "Copy"), 1500); };
    const mark = () => { getSelection().selectAllChildren(code); say(from, "Selected"); };
    // Without TLS and not on this machine there is no clipboard: then it is selected.
    if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(done, mark);
    else mark();
  });

  // ---- What is known -----------------------------------------------------------------------------------------------

  const KEPT = 1800;
  const S = { proxy: null, rollout: null, ports: [], series: [], seconds: [], now: null, changes: [], reports: [] };
  let port = 0;

  function take(news) {
    if (news.whole) Object.assign(S, { seconds: [], changes: [], reports: [] });
    for (const name of ["proxy", "rollout", "ports", "now"]) if (name in news) S[name] = news[name];
    if (news.series) S.series.push(...news.series);
    if (news.changes) S.changes = S.changes.concat(news.changes).slice(-100);
    if (news.reports) {
      const fresh = new Set(news.reports.map((report) => report.number));
      S.reports = news.reports.concat(S.reports.filter((report) => !fresh.has(report.number))).slice(0, 20);
    }
    if (news.seconds) {
      S.seconds.push(...news.seconds.map(([number, at, length, rows]) => ({
        number, at, length,
        rows: rows.map(([series, role, asked, sent, wanted, requests, errors, p50, p99, open, error, tries, failedTries]) => ({
          port: S.series[series][0], version: S.series[series][1], role: ROLES[role],
          asked, sent, wanted, requests, errors, p50, p99, open, error, tries, failedTries,
        })),
      })));
      S.seconds.splice(0, S.seconds.length - KEPT);
    }
  }

  // ---- The stream --------------------------------------------------------------------------------------------------

  let lastId = "";
  let wait = 1000;

  const storedToken = () => { try { return sessionStorage.getItem("splitway-token"); } catch { return null; } };
  function headers(more) {
    const token = storedToken();
    return token ? { ...more, authorization: `Bearer ${token}` } : more;
  }

  function connection(state, text) {
    $("live").dataset.state = state;
    say($("live-text"), text);
    document.body.classList.toggle("stale", state === "off" && S.proxy !== null);
  }

  // One stream at a time: whoever asks anew ends the one before.
  let asking = new AbortController();
  async function follow() {
    asking.abort();
    const mine = asking = new AbortController();
    while (!mine.signal.aborted) {
      try {
        const answer = await fetch("events", { headers: headers({ accept: "text/event-stream", "last-event-id": lastId }), cache: "no-store", signal: mine.signal });
        if (mine.signal.aborted) return;
        if (answer.status === 401) return locked();
        if (!answer.ok) {
          const problem = await answer.json().catch(() => ({}));
          connection("off", problem.error || `the proxy answers ${answer.status}`);
          wait = 5000;
        } else {
          $("locked").hidden = true;
          $("board").hidden = false;
          say($("token-answer"), "");
          // A link sends no token.
          $("programs").hidden = storedToken() !== null;
          S.series = [];
          await read(answer.body.getReader());
          connection("off", "the proxy has ended this stream; asking again");
        }
      } catch {
        if (mine.signal.aborted) return;
        connection("off", "not heard; asking again");
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
      wait = Math.min(wait * 1.5, 5000);
    }
  }

  async function read(reader) {
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      // Each second something comes; whoever says nothing for so long is not there any more.
      let timer;
      const silence = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error("silence")), 20000); });
      const { done, value } = await Promise.race([reader.read(), silence]).finally(() => clearTimeout(timer));
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      const events = rest.split("\n\n");
      rest = events.pop();
      for (const event of events) {
        let data = "";
        for (const line of event.split("\n")) {
          if (line.startsWith("data: ")) data += line.slice(6);
          else if (line.startsWith("id: ")) lastId = line.slice(4);
        }
        if (!data) continue;
        take(JSON.parse(data));
        wait = 1000;
        connection("on", "live");
        render();
      }
    }
  }

  function locked() {
    const had = storedToken() !== null;
    $("locked").hidden = false;
    $("board").hidden = true;
    connection("off", "a token is needed");
    say($("token-answer"), had ? "That is not the token." : "");
    try { sessionStorage.removeItem("splitway-token"); } catch { /* It was never stored. */ }
    $("token").focus();
  }

  $("unlock").addEventListener("submit", (event) => {
    event.preventDefault();
    const token = $("token").value.trim();
    $("token").value = "";
    if (!/^[!-~]+$/.test(token)) return say($("token-answer"), "That is no token: expected letters, digits and signs of ASCII, without spaces.");
    try { sessionStorage.setItem("splitway-token", token); } catch {
      say($("token-answer"), "This browser keeps nothing for this page, so the token cannot be kept.");
      return;
    }
    follow();
  });

  // ---- The verdict -------------------------------------------------------------------------------------------------

  const backends = () => (S.ports[port] ? S.ports[port].backends : []);
  const inRole = (role) => backends().find((backend) => backend.role === role);
  // Versions may be called by their roles.
  const who = (role, version) => (role === version ? `the ${role}` : `${role} ${version}`);

  function failedOf(report, name) {
    const version = report && report.versions.find((one) => one.version === name);
    return version || { requests: 0, errors: 0, tries: 0, failed_tries: 0, error_rate: null, users: null };
  }
  // "3 of 40 requests", and what the version would have failed, had not another endpoint or version answered instead.
  const ofRequests = (met) => `${digits(met.errors, 0)} of ${many(met.requests, "request")}`;
  const isSaved = (met) => met.tries > 0 && met.error_rate > (met.requests ? met.errors / met.requests : 0) + 0.01;
  const saved = (met) => (isSaved(met)
    ? `${digits(met.failed_tries, 0)} of ${digits(met.tries, 0)} tries failed there (${percent(met.error_rate)}), ${digits(met.failed_tries - met.errors, 0)} of which others answered instead` : "");
  const met = (version) => `${many(version.requests, "request")}${version.users === null ? "" : ` of about ${many(version.users, "user")}`} met it`;

  function verdict() {
    if (!S.proxy) return { tone: "calm", headline: "Waiting for the first second", facts: [] };
    const stable = inRole("stable"), canary = inRole("canary");
    const progress = S.rollout && S.rollout.progress;
    const why = progress ? progress.why : [];
    if (S.proxy.generation === 0) {
      const refused = S.proxy.refused;
      const text = refused ? `The last try was refused: ${refused.message}` : "No snapshot yet: every request is answered 503.";
      return { tone: "bad", headline: "Nothing is live yet", facts: [{ text, field: "" }, ...why] };
    }
    const report = S.reports[0];
    const name = canary ? canary.version : "";
    if (report && report.outcome === "running") {
      const ours = failedOf(report, report.canary), other = failedOf(report, report.stable);
      // Of tries: a version that nobody can reach has no request at all.
      const fails = ours.tries >= 20 && ours.error_rate > (other.error_rate || 0) + 0.01;
      const so = saved(ours) || (!ours.requests ? "it has met no request yet" : ours.errors === 0 ? `none of ${digits(ours.requests, 0)} requests failed there`
        : `${ofRequests(ours)} failed there (${percent(ours.errors / ours.requests)})`);
      const than = other.tries ? `; ${who("stable", report.stable)} fails ${percent(other.error_rate)}` : "";
      const state = progress ? progress.state : "step";
      const does = { paused: "is paused", hold: "is on hold", ramp: "ramps up" }[state] || "is being rolled out";
      const share = canary ? canary.asked : 0;
      return {
        tone: fails || state === "hold" ? "warn" : "calm",
        headline: fails
          ? `${upper(who("canary", report.canary))} fails ${percent(ours.error_rate)} of its ${isSaved(ours) ? "tries" : "requests"}`
          : `${upper(who("canary", report.canary))} ${does}: ${percent(share)} of the requests`,
        facts: [{ text: upper(so) + than + ".", field: "" }, ...why.slice(0, 1).map((fact) => ({ ...fact, text: upper(fact.text) + "." }))],
      };
    }
    if (report && report.outcome === "aborted") {
      const ours = failedOf(report, report.canary);
      const all = stable && stable.asked === 1;
      const since = clock(time(report.ended));
      const failed = isSaved(ours) ? `failed ${digits(ours.failed_tries, 0)} of ${digits(ours.tries, 0)} tries (${percent(ours.error_rate)})`
        : ours.requests ? `failed ${ofRequests(ours)} (${percent(ours.errors / ours.requests)})` : "had met no request";
      const users = ours.users === null ? "" : ` About ${many(ours.users, "user")} met the canary.`;
      const rest = stable && stable.version !== "stable" ? `stable ${stable.version}` : "stable";
      const by = report.objection;
      return {
        tone: "bad",
        headline: `Rolled back: ${who("canary", report.canary)} ${failed}`,
        facts: [
          {
            text: `${by ? "The controller aborted the rollout" : "The rollout was aborted"}${placeOf(report)}. `
              + (all ? `The canary's weight went from ${percent(lastWeight(report))} back to 0 at ${since}. All requests go to ${rest}.`
                : `Since ${since} the canary gets ${canary ? percent(canary.asked) : "nothing"}.`)
              + users,
            field: "",
          },
          by ? { text: `Because AnalysisRun ${by.name} objected: ${objected(by)}.`, field: by.field, analysis: by.name } : null,
          { text: (by ? `The controller's words: ${report.why.text.replace(/^aborted: /, "")}` : upper(report.why.text)) + ".", field: report.why.field },
        ],
      };
    }
    if (report && report.outcome === "promoted") {
      const ours = failedOf(report, report.canary);
      return {
        tone: "good",
        headline: `Promoted: ${report.canary} is stable since ${clock(time(report.ended))}`,
        facts: [{ text: `${met(ours)} on the way, ${digits(ours.errors, 0)} failed (${percent(ours.requests ? ours.errors / ours.requests : 0)}).`, field: report.why.field }],
      };
    }
    if (report) {
      const ours = failedOf(report, report.canary);
      return {
        tone: "calm",
        headline: `${upper(report.outcome)}: ${who("canary", report.canary)} gets nothing since ${clock(time(report.ended))}`,
        facts: [{ text: `${met(ours)}, ${digits(ours.errors, 0)} failed.`, field: "" }, report.why],
      };
    }
    if (canary && canary.asked > 0) return { tone: "calm", headline: `${upper(who("canary", name))} gets ${percent(canary.asked)} of the requests`, facts: why.slice(0, 1) };
    return { tone: "calm", headline: `No rollout: all requests go to ${stable ? who("stable", stable.version) : "whoever is there"}`, facts: why.slice(0, 1) };
  }

  const lastWeighed = (report) => report.steps.filter((step) => step.asked > 0).pop();
  const lastWeight = (report) => (lastWeighed(report) || { asked: 0 }).asked;

  function placeOf(report) {
    const progress = S.rollout && S.rollout.progress;
    const weighed = lastWeighed(report);
    const at = weighed && weighed.fact && progress ? progress.steps.findIndex((step) => step.field === weighed.fact.field) : -1;
    return at >= 0 ? ` at the weight of step ${at + 1} of ${progress.steps.length}` : "";
  }

  // What the controller writes about a metric, in words for those who do not know its fields; else as it is.
  function objected({ phase, message }) {
    const times = (n) => (n === "1" ? "once" : `${n} times`);
    const bad = message.match(/^Metric "([^"]+)" assessed Failed due to failed \((\d+)\) > failureLimit \((\d+)\)$/);
    if (bad) return `its metric "${bad[1]}" was bad ${times(bad[2])}, which is forgiven ${bad[3] === "0" ? "not even once" : times(bad[3])}`;
    const blind = message.match(/^Metric "([^"]+)" assessed Error due to consecutiveErrors \((\d+)\)/);
    if (blind) return `its metric "${blind[1]}" could not be measured ${times(blind[2])} in a row`;
    return message || `it is ${phase}`;
  }

  function statusWords() {
    const canary = inRole("canary"), stable = inRole("stable");
    const last = S.seconds[S.seconds.length - 1];
    if (!last || !stable) return "";
    const point = points(1)[0];
    const replica = S.rollout && S.rollout.replica;
    const here = replica && replica[1] > 1 ? `Requests are those of replica ${replica[0] + 1} of ${replica[1]}.` : "";
    if (!canary || canary.asked === 0) return S.reports.length ? here : `Now all requests go to ${who("stable", stable.version)}.`;
    const sent = point && point.share !== null ? percent(point.share) : "no request";
    const decided = point && point.byOthers ? ", as users and routes decide" : "";
    const off = point && point.error !== null && !point.byOthers ? `, ${digits(Math.abs(point.error), 2)} requests off` : "";
    return `${upper(who("canary", canary.version))} gets ${sent} now${decided}, asked ${percent(canary.asked)}${off}.`;
  }

  let toldLast = "";
  function renderVerdict() {
    const { tone, headline, facts } = verdict();
    $("verdict").dataset.tone = tone;
    say($("glyph"), SIGNS[tone]);
    say($("headline"), headline);
    const shown = facts.filter((fact) => fact && fact.text).slice(0, 3);
    keep($("reason"), shown.map((fact, i) => ({ ...fact, i })), (fact) => `${fact.i} ${fact.field} ${fact.analysis || ""}`, (fact) =>
      h("span", {}, h("span", {}), " ", field(fact.field, fact.analysis), " "), (element, fact) => say(element.firstChild, local(fact.text)));
    say($("status"), statusWords());
    // Told aloud when it means something else, not with each number.
    const meaning = `${headline}. ${shown.map((fact) => fact.text).join(" ")}`;
    const stripped = meaning.replace(/[\d.,:]+/g, "#");
    if (stripped !== toldLast) { toldLast = stripped; say($("told"), meaning); }
    document.title = `${{ good: "✓ ", bad: "! ", warn: "! ", calm: "" }[tone]}${headline} · splitway`;

    const warnings = [];
    if (S.rollout && S.rollout.api === "lost")
      warnings.push(`The API server is not heard since ${clock(time(S.rollout.lost_since))}; the last state goes on serving: ${S.rollout.error}`);
    if (S.proxy && S.proxy.refused && S.proxy.generation > 0)
      warnings.push(`A change was refused at ${clock(time(S.proxy.refused.at))}, the last good state goes on serving: ${S.proxy.refused.message}`);
    if (S.proxy && S.proxy.state === "draining") warnings.push("This proxy is about to stop: it is draining.");
    for (const note of (S.proxy && S.proxy.notes) || []) warnings.push(note);
    keep($("warnings"), warnings, (text) => text, (text) => h("li", {}, text));
  }

  // ---- Steps -------------------------------------------------------------------------------------------------------

  function renderSteps() {
    const progress = S.rollout && S.rollout.progress;
    const report = S.reports[0];
    const steps = progress ? progress.steps : [];
    $("phase").hidden = !(progress && progress.phase);
    if (progress && progress.phase) say($("phase"), progress.phase);
    say($("no-steps"), steps.length ? "" : progress ? "This Rollout has no steps." :
      "No Rollout is followed, so there are no steps: weights come from " + (S.proxy && S.proxy.origin ? S.proxy.origin : "the settings") + ".");
    const aborted = progress && progress.state === "aborted";
    const idle = progress && progress.state === "idle";
    const numbers = (step) => {
      const done = report && progress.state !== "unknown" ? report.steps.filter((one) => one.fact && one.fact.field === step.field) : [];
      if (!done.length) return "";
      const seconds = done.reduce((sum, one) => sum + one.seconds, 0);
      const of = (wanted) => done.reduce((sum, one) => sum + one.versions.filter((v) => v.version === report.canary).reduce((n, v) => n + v[wanted], 0), 0);
      const requests = of("requests"), errors = of("errors");
      const sent = done[done.length - 1].sent;
      return `${took(seconds)}, sent ${sent === null ? "–" : percent(sent)}; ${many(requests, "request")} met the canary, ${digits(errors, 0)} failed`;
    };
    keep($("steps"), steps.map((step, i) => ({ ...step, i })), (step) => `${step.i} ${step.text} ${step.field}`, (step) => {
      const at = h("span", { class: "hidden" });
      const mark = h("span", { class: "mark", "aria-hidden": "true" });
      const figures = h("span", { class: "numbers" });
      const element = h("li", {}, mark, h("div", {}, h("span", { class: "what" }, step.text), at, " ", field(step.field), figures));
      Object.assign(element, { at, mark, figures });
      return element;
    }, (element, step) => {
      const now = step.i === progress.step;
      const at = idle || step.i < progress.step ? (idle && !progress.canary && progress.step < steps.length ? "todo" : "done") : now ? (aborted ? "ended" : "now") : "todo";
      element.dataset.at = at;
      if (at === "now") element.setAttribute("aria-current", "step"); else element.removeAttribute("aria-current");
      say(element.mark, at === "done" ? "✓" : at === "ended" ? "✕" : String(step.i + 1));
      say(element.at, { done: " (done)", now: " (now)", ended: " (aborted here)", todo: " (not yet)" }[at]);
      say(element.figures, numbers(step));
    });
    const why = progress ? progress.why : [];
    $("why-title").hidden = !why.length;
    say($("why-title"), { paused: "Why it is paused", hold: "Why it is on hold", ramp: "Why it ramps", aborted: "Why it was aborted" }[progress && progress.state] || "Where it stands");
    keep($("why"), why, (fact) => fact.text + fact.field, (fact) => h("li", {}, local(fact.text), " ", field(fact.field)));
  }

  // ---- Versions ----------------------------------------------------------------------------------------------------

  const FIGURES = [
    ["rate", "requests/s"], ["failed", "failed"], ["p50", "p50"], ["p95", "p95"], ["p99", "p99"],
    ["open", "in flight"],
  ];

  function renderVersions() {
    const now = S.now;
    if (now) say($("versions-note"), `in the last ${digits(now.seconds, 0)} s`);
    keep($("versions"), backends(), (one) => one.version, (one) => {
      const share = h("p", { class: "share" }, h("b", {}), h("span", {}));
      const figures = {};
      const list = h("dl", { class: "figures" }, ...FIGURES.map(([name, label]) => {
        figures[name] = h("dd", {}, "–");
        return h("div", {}, h("dt", {}, label), figures[name]);
      }));
      const rows = h("tbody", {}), number = h("caption", {});
      const table = h("table", { class: "endpoints" }, number,
        h("thead", {}, h("tr", {}, ...["Address", "State"].map((name) => h("th", { scope: "col" }, h("span", { class: "hidden" }, name))))), rows);
      const more = h("p", { class: "quiet" });
      const endpoints = h("div", { class: "scroll listed", tabindex: "0", role: "group", "aria-label": `Endpoints of ${one.version}` }, table, more);
      const role = h("span", {});
      const element = h("article", { class: "card version" },
        h("div", { class: "head" }, h("h3", {}, h("span", { class: "mark-of", "aria-hidden": "true" }), role, " ", h("code", {}, one.version === one.role ? "" : one.version))), share, list, endpoints);
      return Object.assign(element, { share, figures, rows, number, more, named: role });
    }, (element, one) => {
      element.dataset.role = one.role;
      say(element.named, upper(one.role));
      say(element.share.firstChild, percent(one.asked));
      say(element.share.lastChild, ` of the split's requests asked for (weight ${one.weight} of ${one.total})`);
      const counts = now && now.versions.find((v) => v.port === port && v.version === one.version);
      const f = element.figures;
      if (counts) {
        const rate = counts.requests / now.seconds;
        say(f.rate, digits(rate, rate < 10 ? 1 : 0));
        // Of tries: also those that another endpoint or version then answered instead.
        const failed = counts.tries ? counts.failed_tries / counts.tries : 0;
        say(f.failed, counts.tries ? percent(failed) : "–");
        f.failed.parentElement.classList.toggle("alarm", failed > 0.01);
        say(f.p50, ms(counts.p50)); say(f.p95, ms(counts.p95)); say(f.p99, ms(counts.p99));
        say(f.open, digits(counts.in_flight, 0));
      }
      // Those that only finish requests are in the list and are none of them.
      const leaving = one.listed.filter(([, state]) => state === "leaving").length;
      const rest = one.endpoints + leaving - one.listed.length;
      say(element.number, one.endpoints ? many(one.endpoints, "endpoint") : "no endpoint: its requests go to the other version");
      say(element.more, rest > 0 ? `and ${rest} more` : "");
      keep(element.rows, one.listed, ([address]) => address, ([address]) =>
        h("tr", {}, h("th", { scope: "row" }, address), h("td", {})), (row, [, state, words]) => {
        row.dataset.state = state;
        say(row.lastChild, words);
      });
    });
  }

  // ---- Plots -------------------------------------------------------------------------------------------------------

  let length = 300;
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  let colours = {};
  function readColours() {
    for (const name of ["stable", "canary", "grid", "asked", "quiet", "text", "bad", "good", "faint"]) colours[name] = css(`--${name}`);
  }

  const SMOOTH = 10;

  function askedIn(second) {
    const canary = second.rows.find((row) => row.port === port && row.role === "canary");
    return canary ? canary.asked : 0;
  }

  // The newest `count` seconds as numbers. What was sent is counted since the asked share changed, over ten seconds at
  // most: one second of a quiet application says nothing about a share.
  function points(count) {
    const from = Math.max(0, S.seconds.length - count);
    const all = [];
    for (let i = from; i < S.seconds.length; i += 1) {
      const second = S.seconds[i];
      const of = (wanted, role) => sum(second.rows.filter((row) => row.port === port && (!role || row.role === role)), wanted);
      const canary = second.rows.find((row) => row.port === port && row.role === "canary");
      const asked = canary ? canary.asked : 0;
      // In the second of a change a part of the requests was asked for under the share before it.
      const wanted = of("wanted");
      const drawn = canary && wanted > 0 ? canary.wanted / wanted : asked;
      let sent = 0, out = 0, span = 0, failed = { stable: 0, canary: 0 }, had = { stable: 0, canary: 0 }, answered = { stable: 0, canary: 0 };
      for (let j = i; j >= 0 && span < SMOOTH; j -= 1) {
        const rows = S.seconds[j].rows.filter((row) => row.port === port);
        const there = rows.find((row) => row.role === "canary");
        if ((there ? there.asked : 0) !== asked) break;
        // The second of a change has requests from before it.
        if (j < i && (j === 0 || askedIn(S.seconds[j - 1]) !== asked)) break;
        sent += sum(rows, "sent");
        out += there ? there.sent : 0;
        span += S.seconds[j].length;
        for (const role of ["stable", "canary"]) {
          const same = rows.filter((row) => row.role === role);
          failed[role] += sum(same, "failedTries");
          had[role] += sum(same, "tries");
          answered[role] += sum(same, "requests");
        }
      }
      const rate = (role) => (second.rows.some((row) => row.port === port && row.role === role) ? of("requests", role) / second.length : null);
      const p99 = (role) => {
        const rows = second.rows.filter((row) => row.port === port && row.role === role && row.p99 !== null);
        return rows.length ? Math.max(...rows.map((row) => row.p99)) : null;
      };
      // Where users and routes decide everything, the split has sent nothing; then it is who has answered.
      const byOthers = sent === 0 && answered.stable + answered.canary > 0;
      const share = byOthers ? answered.canary / (answered.stable + answered.canary) : sent ? out / sent : null;
      all.push({
        at: second.at, asked: drawn, share, byOthers, error: canary ? canary.error : null,
        rate: { stable: rate("stable"), canary: rate("canary") },
        failed: { stable: had.stable ? failed.stable / had.stable : null, canary: had.canary ? failed.canary / had.canary : null },
        p99: { stable: p99("stable"), canary: p99("canary") },
      });
    }
    return all;
  }
  const sum = (rows, wanted) => rows.reduce((total, row) => total + row[wanted], 0);

  // What happened, as lines through every plot.
  function marks(u) {
    const { ctx } = u;
    ctx.save();
    const { left, top, width, height } = u.bbox;
    let written = -Infinity;
    for (const change of S.changes) {
      if (change.kind !== "outcome" && change.kind !== "refused") continue;
      const x = u.valToPos(change.at, "x", true);
      if (x < left || x > left + width) continue;
      const bad = /aborted|refused/.test(change.text);
      ctx.strokeStyle = ctx.fillStyle = bad ? colours.bad : colours.good;
      ctx.lineWidth = 1.5 * devicePixelRatio;
      ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
      ctx.beginPath(); ctx.moveTo(x, top); ctx.lineTo(x, top + height); ctx.stroke();
      if (u.named) {
        const word = (change.text.match(/aborted|promoted|withdrawn|superseded|refused/) || [""])[0];
        ctx.font = `600 ${12 * devicePixelRatio}px system-ui, sans-serif`;
        const long = ctx.measureText(word).width + 10 * devicePixelRatio;
        const from = x + long < left + width ? x : x - long;
        // Where two are close to each other, the line alone has to do.
        if (from < written) continue;
        written = from + long;
        ctx.textAlign = "left";
        ctx.fillText(word, from + 5 * devicePixelRatio, top + 13 * devicePixelRatio);
      }
    }
    ctx.restore();
  }

  // Where a line ends, its name: nobody has to match colours.
  function names(labels) {
    return (u) => {
      const { ctx } = u;
      ctx.save();
      ctx.font = `600 ${11.5 * devicePixelRatio}px system-ui, sans-serif`;
      ctx.textBaseline = "middle";
      ctx.textAlign = "left";
      const placed = [];
      labels.forEach(([series, text, colour]) => {
        const data = u.data[series];
        let last = data.length - 1;
        while (last >= 0 && data[last] === null) last -= 1;
        if (last < 0 || last < data.length - 5) return;
        let y = u.valToPos(data[last], "y", true);
        while (placed.some((other) => Math.abs(other - y) < 13 * devicePixelRatio)) y -= 13 * devicePixelRatio;
        placed.push(y);
        ctx.fillStyle = colours[colour];
        ctx.fillText(text, u.bbox.left + u.bbox.width + 6 * devicePixelRatio, y);
      });
      ctx.restore();
    };
  }

  function band(u) {
    const { ctx } = u;
    const [high, low] = [u.valToPos(1, "y", true), u.valToPos(-1, "y", true)];
    ctx.save();
    ctx.fillStyle = colours.faint;
    ctx.fillRect(u.bbox.left, high, u.bbox.width, low - high);
    ctx.restore();
  }

  const plots = [];
  function plot(id, { series, range, value, labels, fill, named, splits }) {
    const element = $(id);
    const axis = (more) => ({
      stroke: () => colours.quiet, grid: { stroke: () => colours.grid, width: 1 }, ticks: { show: false },
      font: "12px system-ui, sans-serif", ...more,
    });
    const u = new uPlot({
      width: Math.max(element.clientWidth, 120), height: element.clientHeight,
      padding: [8, labels ? 56 : 10, 0, 0], legend: { show: false },
      cursor: { sync: { key: "all" }, drag: { x: false, y: false }, points: { size: 7 } },
      scales: { x: { time: true, range: (_, min, max) => (min === null ? [Date.now() / 1000 - length, Date.now() / 1000] : [Math.max(max - length, Math.min(min, max - 60)), max]) }, y: { range } },
      axes: [axis({ size: 26, space: 62, values: (_, all) => all.map((at) => new Date(at * 1000).toLocaleTimeString("en-GB", length > 300 ? { hour: "2-digit", minute: "2-digit" } : {})) }),
        axis({ size: 46, space: 26, values: (_, all) => all.map(value), ...(splits ? { splits } : {}) })],
      series: [{}, ...series],
      hooks: { drawClear: fill ? [fill] : [], draw: [marks, ...(labels ? [names(labels)] : [])] },
    }, [[], ...series.map(() => [])], element);
    u.named = named;
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", "Plot: nothing yet.");
    plots.push({ id, element, u });
    return u;
  }

  const line = (colour, width, more) => ({ stroke: () => colours[colour], width, points: { show: false }, spanGaps: false, ...more });
  const upTo = (least) => (_, min, max) => [0, Math.max(least, (max || 0) * 1.12)];
  const two = [[1, "stable", "stable"], [2, "canary", "canary"]];
  const pair = () => [line("stable", 1.4), line("canary", 2.6)];

  function makePlots() {
    readColours();
    const stepped = uPlot.paths.stepped({ align: -1 });
    plot("share", {
      series: [line("asked", 2, { dash: [6, 4], paths: stepped }), line("canary", 2.6, { paths: stepped, fill: () => colours.canary + "1f" })],
      range: (_, min, max) => [0, Math.min(105, Math.max(10, (max || 0) * 1.15))], value: (n) => `${digits(n, 1)} %`,
      labels: [[2, "sent", "canary"]], named: true,
    });
    plot("error", {
      series: [line("canary", 1.8)], fill: band, value: (n) => (n === 0 ? "0" : signed(n).replace(/\.?0+$/, "")), splits: (u) => (u.scales.y.max < 3 ? [-1, 0, 1] : [-u.scales.y.max / 2, 0, u.scales.y.max / 2].map(Math.round)),
      range: (_, min, max) => { const most = Math.max(1.35, Math.abs(min || 0) * 1.1, Math.abs(max || 0) * 1.1); return [-most, most]; }, labels: [],
    });
    plot("rate", { series: pair(), range: upTo(1), value: (n) => digits(n, 1), labels: two });
    plot("failed", { series: pair(), range: upTo(2), value: (n) => `${digits(n, 1)} %`, labels: two });
    plot("latency", { series: pair(), range: upTo(1), value: (n) => digits(n, 1), labels: two });
    let asked = false;
    new ResizeObserver(() => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => {
        asked = false;
        for (const { u, element } of plots) if (element.clientWidth) u.setSize({ width: element.clientWidth, height: element.clientHeight });
      });
    }).observe(document.body);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); for (const { u } of plots) u.redraw(false, true); });
  }

  function renderPlots() {
    if (!plots.length) return;
    const all = points(Math.ceil(length * 1.1) + 2).filter((point, _, list) => point.at > list[list.length - 1].at - length - 2);
    const xs = all.map((point) => point.at);
    const times = (n) => (n === null ? null : n * 100);
    const [share, error, rate, failed, latency] = plots.map(({ u }) => u);
    share.setData([xs, all.map((p) => p.asked * 100), all.map((p) => times(p.share))]);
    error.setData([xs, all.map((p) => p.error)]);
    const both = (u, of) => u.setData([xs, all.map((p) => of(p).stable), all.map((p) => of(p).canary)]);
    both(rate, (p) => p.rate);
    both(failed, (p) => ({ stable: times(p.failed.stable), canary: times(p.failed.canary) }));
    both(latency, (p) => ({ stable: p.p99.stable === null ? null : p.p99.stable * 1000, canary: p.p99.canary === null ? null : p.p99.canary * 1000 }));

    const last = all[all.length - 1];
    const describe = (id, text) => { const element = $(id); if (element.getAttribute("aria-label") !== text) element.setAttribute("aria-label", text); };
    if (last) {
      const or = (n, unit) => (n === null ? "none" : unit(n));
      describe("share", `Plot of the canary's share: asked ${percent(last.asked)}, sent ${or(last.share, percent)}. The same as a table is below.`);
      describe("error", `Plot of the error in requests: ${or(last.error, signed)} now.`);
      describe("rate", `Plot of requests per second: stable ${or(last.rate.stable, (n) => digits(n, 1))}, canary ${or(last.rate.canary, (n) => digits(n, 1))}.`);
      describe("failed", `Plot of failed requests: stable ${or(last.failed.stable, percent)}, canary ${or(last.failed.canary, percent)}.`);
      describe("latency", `Plot of the 99th percentile: stable ${ms(last.p99.stable)}, canary ${ms(last.p99.canary)}.`);
      keep($("share-legend"), ["asked", "sent", "off"], (name) => name, (name) => h("span", {}, name === "off" ? null : h("i", { class: name }), { asked: "asked ", sent: "sent ", off: "error " }[name], h("b", {})), (element, name) => {
        say(element.lastChild, { asked: percent(last.asked), sent: or(last.share, percent), off: or(last.error, (n) => `${signed(n)} requests`) }[name]);
      });
    }
    if ($("as-table").open) renderTable(all);
  }

  function renderTable(all) {
    const every = Math.max(1, Math.round(length / 60));
    const rows = all.filter((_, i) => (all.length - 1 - i) % every === 0).reverse().slice(0, 60);
    const or = (n, unit) => (n === null ? "–" : unit(n));
    const cells = (p) => [clock(p.at), percent(p.asked), or(p.share, percent), or(p.error, signed), or(p.rate.stable, (n) => digits(n, 1)),
      or(p.failed.stable, percent), or(p.rate.canary, (n) => digits(n, 1)), or(p.failed.canary, percent)];
    keep($("table"), rows, (p) => p.at, (p) => h("tr", {}, ...cells(p).map((text, i) => h(i ? "td" : "th", i ? {} : { scope: "row" }, text))));
  }

  $("as-table").addEventListener("toggle", () => renderPlots());
  $("windows").addEventListener("change", (event) => { length = Number(event.target.value); renderPlots(); });

  // ---- Explain -----------------------------------------------------------------------------------------------------

  const REASONS = {
    weighted: "by the exact split", sticky: "by the user's bucket", route: "by a route", override: "by the tester's override",
    mirror: "by the exact split, with a copy", fallback: "because the other version has no endpoint",
  };

  let guessed = false;
  function renderExplain() {
    const keys = (S.ports[port] && S.ports[port].sticky) || [];
    $("x-user").hidden = !keys.length;
    if (guessed || !keys.length) return;
    guessed = true;
    // Users are known by what the configuration says, so that nobody has to.
    $("x-key").value = keys[0] === "client address" ? "10.0.0.1" : "42";
    $("x-header").value = "";
  }

  async function explain() {
    const query = new URLSearchParams();
    const key = $("x-user").hidden ? "" : $("x-key").value.trim();
    if (key) query.set("key", key);
    query.set("method", $("x-method").value);
    query.set("path", $("x-path").value || "/");
    for (const line of $("x-header").value.split("\n")) if (line.trim()) query.append("header", line.replace(/\s*:\s*/, ":").trim());
    for (const pair of $("x-cookie").value.split(/;\s*/)) if (pair.trim()) query.append("cookie", pair.trim());
    if ($("x-client").value.trim()) query.set("client", $("x-client").value.trim());
    if (S.ports.length > 1 && S.ports[port].port) query.set("port", S.ports[port].port);
    // There, + is a plus sign.
    const target = `explain?${query.toString().replace(/\+/g, "%20")}`;
    const place = $("explained");
    try {
      const answer = await fetch(target, { headers: headers({ accept: "application/json" }), cache: "no-store" });
      const said = await answer.json();
      if (!answer.ok) {
        place.replaceChildren(h("p", { class: "wrong" }, `${upper(said.error)}.`), h("p", { class: "quiet" }, said.remedy || ""));
        return;
      }
      const uncounted = said.counted ? "" : ", not counted in the split";
      const copy = said.mirror ? `, and a copy goes to ${said.mirror}` : "";
      const by = said.route ? `by the route ${said.route}` : REASONS[said.reason] || `reason ${said.reason}`;
      place.replaceChildren(
        h("p", { class: "answer" }, h("span", { class: "mark-of", "data-role": said.role, "aria-hidden": "true" }), `${upper(who(said.role, said.version))}, ${by}${copy}${uncounted}.`),
        h("ul", {}, ...said.considered.map((one) => h("li", { class: one.decided ? "decided" : null }, `${one.what}: ${one.why}`, one.decided ? h("span", { class: "hidden" }, " (this decided)") : null))),
        h("p", { class: "quiet" }, "The same for programs: ", storedToken() ? h("code", {}, target) : h("a", { href: target }, target)));
    } catch {
      place.replaceChildren(h("p", { class: "wrong" }, "The proxy was not heard. Is it still running?"));
    }
  }

  $("explain").addEventListener("submit", (event) => { event.preventDefault(); explain(); });

  // ---- Lists -------------------------------------------------------------------------------------------------------

  function renderChanges() {
    keep($("changes"), S.changes.slice().reverse(), (change) => change.number, (change) =>
      h("li", { "data-kind": change.kind }, h("time", { datetime: new Date(change.at * 1000).toISOString() }, clock(change.at)),
        h("span", { class: "text" }, local(change.text), " ", field(change.field))));
  }

  function renderRollouts() {
    keep($("rollouts"), S.reports, (report) => report.number, () => {
      const element = h("tr", {}, h("th", { scope: "row" }), ...Array.from({ length: 7 }, () => h("td", {})), h("td", { class: "text" }));
      element.children[2].className = "outcome";
      element.children[8].append(h("span", {}), " ", h("span", {}));
      return element;
    }, (element, report) => {
      const ours = failedOf(report, report.canary), other = failedOf(report, report.stable);
      const reached = report.steps.map((step) => percent(step.asked)).filter((text, i, all) => text !== all[i - 1]);
      const path = reached.length > 6 ? [...reached.slice(0, 2), "…", ...reached.slice(-3)] : reached;
      const texts = [clock(time(report.began)), report.canary, report.outcome, took(report.seconds), path.join(" → "), digits(ours.requests, 0) + (ours.users === null ? "" : ` (about ${many(ours.users, "user")})`),
        ours.tries ? `${digits(ours.failed_tries, 0)} (${percent(ours.error_rate)})` : "–", other.tries ? percent(other.error_rate) : "–"];
      texts.forEach((text, i) => say(element.children[i], text));
      element.children[2].dataset.tone = TONES[report.outcome] || "calm";
      const [text, place] = element.children[8].querySelectorAll(":scope > span");
      say(text, local(report.why.text));
      if (place.dataset.field !== report.why.field) { place.dataset.field = report.why.field; place.replaceChildren(...[field(report.why.field)].filter(Boolean)); }
    });
    if (!S.reports.length && !$("rollouts").firstChild) $("rollouts").append(h("tr", {}, h("td", { colspan: "9", class: "quiet" }, "None yet.")));
    else if (S.reports.length) for (const row of [...$("rollouts").children]) if (row.children.length === 1) row.remove();
  }

  let decisions = [];
  async function poll() {
    if (!document.hidden && S.proxy) {
      try {
        const answer = await fetch("requests", { headers: headers({ accept: "application/json" }), cache: "no-store" });
        decisions = answer.ok ? (await answer.json()).requests : [];
        say($("decisions-note"), decisions.length ? "" : "No request has been written down yet.");
        renderDecisions();
      } catch { /* The stream says that nobody is heard. */ }
    }
    setTimeout(poll, 2500);
  }

  function renderDecisions() {
    const select = $("of-version");
    const versions = [...new Set(decisions.map((one) => one.version).filter(Boolean))].sort();
    keep(select, ["", ...versions], (name) => name, (name) => h("option", { value: name }, name || "all"));
    const wanted = select.value;
    const shown = decisions.filter((one) => !wanted || one.version === wanted).slice(0, 50);
    keep($("decisions"), shown, (one) => JSON.stringify(one), (one) => {
      const at = time(one.time);
      const target = one.path || "/";
      const seconds = one.duration_seconds;
      const why = [one.reason, one.route, one.failure && `failed: ${one.failure}`, one.failed && `${who(one.failed.role, one.failed.version)} had failed: ${one.failed.failure}`].filter(Boolean).join(", ");
      return h("tr", {}, h("th", { scope: "row" }, clock(at)), h("td", { class: "path" }, `${one.method || ""} ${target}`), h("td", {}, String(one.status ?? "–")),
        h("td", {}, h("span", { class: "mark-of", "data-role": one.role, "aria-hidden": "true" }), [one.role, one.version === one.role ? null : one.version].filter(Boolean).join(" ") || "–"), h("td", { class: "text" }, why || "–"),
        h("td", {}, Number.isFinite(seconds) ? ms(seconds) : "–"),
        h("td", {}, h("button", { type: "button", class: "link", "aria-label": `Explain ${one.method || "GET"} ${target}`, click: () => {
          $("x-path").value = target;
          if (one.method) $("x-method").value = one.method;
          explain();
          $("explain").scrollIntoView({ block: "center" });
        } }, "explain")));
    });
  }
  $("of-version").addEventListener("change", renderDecisions);

  // ---- All of it ---------------------------------------------------------------------------------------------------

  function renderHead() {
    const rollout = S.rollout;
    say($("name"), rollout && rollout.name ? rollout.name : S.proxy.origin || "no Rollout");
    const replica = rollout && rollout.replica;
    $("replica").hidden = !(replica && replica[1] > 1);
    if (replica) say($("replica"), `This is what replica ${replica[0] + 1} of ${replica[1]} has seen.`);
    say($("build"), `splitway ${S.proxy.version}, snapshot ${S.proxy.generation}, from ${S.proxy.origin || "nothing yet"}`);
    $("port-choice").hidden = S.ports.length < 2;
    keep($("port"), S.ports.map((one, i) => ({ name: one.port || "the one without a name", i })), (one) => one.i, (one) => h("option", { value: one.i }, one.name));
  }
  $("port").addEventListener("change", (event) => { port = Number(event.target.value); render(); });

  let due = false;
  function render() {
    if (due) return;
    due = true;
    // Also when nobody looks: a tab in the background gets no frames, and yet has a title.
    setTimeout(() => {
      due = false;
      if (!S.proxy) return;
      renderHead(); renderVerdict(); renderSteps(); renderVersions(); renderPlots(); renderExplain(); renderChanges(); renderRollouts();
    }, 0);
  }

  makePlots();
  follow();
  poll();
})();
