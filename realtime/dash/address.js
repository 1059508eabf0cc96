/** Where the page is, in its address: what it shows, and of which runs. A view can be shared. */

/**
 * @typedef {object} Place
 * @property {"runs" | "run" | "batch" | "job" | "messages"} view
 * @property {string} id Of the run, batch or job run.
 * @property {string[]} tags
 * @property {"all" | "any"} match
 * @property {string[]} tasks
 * @property {string[]} statuses
 * @property {string} text
 */

/** @type {Place} */
const START = { view: "runs", id: "", tags: [], match: "all", tasks: [], statuses: [], text: "" };

/** @param {string} [search] @returns {Place} */
export function readAddress(search = location.search) {
  const query = new URLSearchParams(search);
  for (const view of /** @type {const} */ (["run", "batch", "job"])) {
    const id = query.get(view);
    if (id) return { ...START, view, id };
  }
  if (query.has("messages")) return { ...START, view: "messages" };
  return {
    ...START,
    tags: query.getAll("tag").filter(Boolean),
    match: query.get("match") === "any" ? "any" : "all",
    tasks: query.getAll("task").filter(Boolean),
    statuses: query.getAll("status").filter(Boolean),
    text: query.get("text") ?? "",
  };
}

/** @param {Partial<Place>} place @returns {string} The address of a place, to be linked to. */
export function addressOf({ view = "runs", id = "", tags = [], match = "all", tasks = [], statuses = [], text = "" }) {
  const query = new URLSearchParams();
  if (view === "messages") query.set("messages", "");
  else if (view !== "runs") query.set(view, id);
  for (const tag of tags) query.append("tag", tag);
  if (tags.length > 1 && match === "any") query.set("match", match);
  for (const task of tasks) query.append("task", task);
  for (const status of statuses) query.append("status", status);
  if (text) query.set("text", text);
  const said = query.toString().replace(/=(?=&|$)/g, "");
  return said ? `/?${said}` : "/";
}

/** @param {{id: string, taskIdentifier: string}} run Where it is shown best. @returns {Partial<Place>} */
export function placeOfRun({ id, taskIdentifier }) {
  return { view: isJob(taskIdentifier) ? "job" : "run", id };
}

/** A job run is a run whose task is the job. @param {string} taskIdentifier */
export function isJob(taskIdentifier) {
  return /^job_[0-9a-z]{26}$/.test(taskIdentifier);
}

/** Where an id leads, by how it begins. @param {string} id @returns {Partial<Place> | undefined} */
export function placeOf(id) {
  const trimmed = id.trim();
  if (/^run_\w+$/.test(trimmed)) return { view: "run", id: trimmed };
  if (/^batch_\w+$/.test(trimmed)) return { view: "batch", id: trimmed };
  return undefined;
}
