/** What callers gave to be called. */

/**
 * Calls it. What it throws is its own affair: it is reported as what nobody catches, and keeps
 * neither the others nor the connection from what is theirs.
 *
 * @template {any[]} A
 * @param {((...args: A) => void) | undefined} callback
 * @param {A} args
 */
export function call(callback, ...args) {
  try {
    callback?.(...args);
  } catch (error) {
    if (typeof reportError === "function") {
      reportError(error);
    } else {
      queueMicrotask(() => {
        throw error;
      });
    }
  }
}
