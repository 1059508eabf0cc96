/** What is published: small, without dependencies, with types that say what a page may do. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import { buildSync } from "esbuild";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const manifest = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));

test("it takes at most 12 KB of a page, hooks and all", () => {
  const { outputFiles } = buildSync({
    stdin: { contents: `export * from "./src/index.js"; export * from "./react/index.js";`, resolveDir: ROOT },
    bundle: true,
    minify: true,
    format: "esm",
    external: ["react"],
    write: false,
  });
  const size = gzipSync(outputFiles[0]?.contents ?? "", { level: 9 }).length;
  assert.ok(size <= 12 * 1024, `${size} bytes`);
});

test("it depends on nothing, and imports nothing but itself", () => {
  assert.equal(manifest.dependencies, undefined);
  assert.deepEqual(Object.keys(manifest.peerDependencies), ["react"]);
  for (const name of readdirSync(join(ROOT, "src"))) {
    const source = readFileSync(join(ROOT, "src", name), "utf8");
    for (const [, from] of source.matchAll(/^(?:import|export) .*? from "(.*?)"/gm)) assert.match(from ?? "", /^\.\//, name);
  }
});

test("what stands in package-lock.json names no place to load from", () => {
  assert.doesNotMatch(readFileSync(join(ROOT, "package-lock.json"), "utf8"), /"resolved"|registry/);
});

test("its declarations say what a page may do", () => {
  const folder = mkdtempSync(join(tmpdir(), "runstream-types-"));
  const tsc = join(ROOT, "node_modules/typescript/bin/tsc");
  try {
    execFileSync(process.execPath, [tsc, "--project", join(ROOT, "tsconfig.types.json"), "--outDir", join(folder, "types")]);
    const page = join(folder, "page.ts");
    writeFileSync(
      page,
      `
      import { Runstream, RunstreamError, type Run } from "./types/src/index.js";

      interface Invoice { total: number }
      const runs = new Runstream({ url: "http://localhost:8080", token: async () => "t" });
      export async function total(id: string): Promise<number | undefined> {
        for await (const run of runs.subscribeToRun<{ orderId: number }, Invoice>(id, { signal: AbortSignal.timeout(1) })) {
          const order: number = run.payload.orderId;
          const status: "QUEUED" | "COMPLETED" | string = run.status;
          void [order, status];
          if (run.isSuccess) return run.output?.total;
        }
        return undefined;
      }
      const tagged = runs.subscribeToRunsWithTag<object, Invoice>(["a", "b"], { match: "any", statuses: ["QUEUED"], createdAfter: new Date() });
      const stop: () => void = tagged.subscribe(({ runs, status }) => void [runs[0]?.output?.total, status === "live"]);
      const value: Run<object, Invoice> | undefined = tagged.getSnapshot().runs[0];
      const progress: number | undefined = runs.subscribeToBatch("batch_1").getSnapshot().batch?.final;
      void [stop, value, progress, new RunstreamError("closed").code];
      // @ts-expect-error no such status
      runs.subscribeToRuns({ statuses: ["RUNNING"] });
      // @ts-expect-error a run's stream has no filters
      runs.subscribeToRun("run_1", { tasks: ["a"] });
      // @ts-expect-error the output is an invoice
      const wrong: string | undefined = value?.output?.total;
      void wrong;
      `,
    );
    const options = "--ignoreConfig --strict --noEmit --target es2022 --lib es2024,dom,dom.asynciterable --module nodenext --moduleDetection force --types";
    execFileSync(process.execPath, [tsc, ...options.split(" "), "", page]);
  } catch (error) {
    throw new Error(String(/** @type {any} */ (error).stdout ?? error), { cause: error });
  } finally {
    rmSync(folder, { recursive: true });
  }
});
