import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { Runstream } from "runstream";
import { RunstreamProvider, useConnection, useRun, useRuns } from "runstream/react";

const url = new URLSearchParams(location.search).get("server") ?? "http://localhost:8080";
const client = new Runstream({ url });

function App() {
  const [chosen, choose] = useState();
  const { runs, status } = useRuns({ limit: 50, delivery: "latest", skip: ["payload", "output"] });
  return (
    <main>
      <h1>Runs</h1>
      <Link />
      {status === "connecting" && <p>Connecting …</p>}
      <ul>
        {runs.slice(0, 50).map((run) => (
          <li key={run.id}>
            <button onClick={() => choose(run.id)}>{run.taskIdentifier}</button> {run.status}{" "}
            {run.isExecuting && <progress value={run.metadata.progress} />}
          </li>
        ))}
      </ul>
      {chosen && <Run id={chosen} />}
    </main>
  );
}

function Run({ id }) {
  const { run, error } = useRun(id);
  if (error) return <p role="alert">{error.message}</p>;
  if (!run) return <p>…</p>;
  return (
    <section aria-label="The chosen run">
      <h2>
        {run.taskIdentifier} #{run.number}, version {run.version}
      </h2>
      <pre>{JSON.stringify(run.metadata, null, 2)}</pre>
      {run.isSuccess && <pre>{JSON.stringify(run.output, null, 2)}</pre>}
    </section>
  );
}

function Link() {
  const { state, isStale } = useConnection();
  return <p role="status">{state === "OPEN" && !isStale ? "Live" : "Not live"}</p>;
}

createRoot(document.getElementById("app")).render(
  <StrictMode>
    <RunstreamProvider client={client}>
      <App />
    </RunstreamProvider>
  </StrictMode>,
);
