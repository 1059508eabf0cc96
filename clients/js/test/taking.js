/** Loops as a test follows them: all that each was told so far. */

/** What a loop gives, taken as it comes. @template R @param {AsyncIterable<R>} loop */
export function taken(loop) {
  /** @type {R[]} */
  const values = [];
  const over = (async () => {
    for await (const value of loop) values.push(value);
  })();
  over.catch(() => {});
  return { values, over };
}

/** What a loop over `changes()` was told, in short. @param {import("../src/index.js").Change[]} changes */
export const inShort = (changes) =>
  changes.map((change) => ("run" in change ? `${change.kind} ${change.run.id} ${change.run.version}` : change.kind));
