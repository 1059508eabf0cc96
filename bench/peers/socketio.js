// Socket.IO with its Redis adapter, as its documentation has it.
//
//   node socketio.js PORT PUBLISH_PORT REDIS_PORT
//
// What comes as a line to PUBLISH_PORT is emitted to all who are connected.

const { createServer } = require("http");
const { createServer: createTcp } = require("net");
const { createInterface } = require("readline");
const { Server } = require("socket.io");
const { createAdapter } = require("@socket.io/redis-adapter");
const { createClient } = require("redis");

const [port, publishPort, redisPort] = process.argv.slice(2).map(Number);

async function main() {
  const publishing = createClient({ url: `redis://127.0.0.1:${redisPort}` });
  const subscribing = publishing.duplicate();
  await Promise.all([publishing.connect(), subscribing.connect()]);
  const http = createServer();
  // The readers of the benchmark answer no pings of this kind.
  const io = new Server(http, {
    adapter: createAdapter(publishing, subscribing),
    transports: ["websocket"],
    pingInterval: 3_600_000,
  });
  createTcp((socket) => {
    createInterface({ input: socket }).on("line", (line) => io.emit("change", JSON.parse(line)));
  }).listen(publishPort, "127.0.0.1", () => http.listen(port, "127.0.0.1"));
}

main();
