// crowd: several conversations through the official JavaScript client, in one program as a backend
// has them. It lets the SDK do what it does by itself, above all reconnect. What is said stands in
// tests/clients.
//
//   node crowd.mjs ws://127.0.0.1:PORT OBJECTS EACH
//
// OBJECTS client objects with EACH connections; a connection is told by its number, `who`.
// Standard input, one JSON object a line: {"who": N, "send": MESSAGE}. Its end closes all.
// Standard output, one JSON object a line: {"who": N, "opened": true}, {"who": N, "message": ...},
// {"who": N, "closed": CODE}. Audio and failed attempts to connect are left out.

import { createInterface } from "node:readline";
import { DeepgramClient } from "@deepgram/sdk";

const METHODS = {
  Settings: "sendSettings",
  InjectUserMessage: "sendInjectUserMessage",
  KeepAlive: "sendKeepAlive",
};
const KEEP_ALIVE_MS = 300;

const tell = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const [agent, objects, each] = process.argv.slice(2);
const connections = [];
for (let n = 0; n < Number(objects); n++) {
  const client = new DeepgramClient({
    apiKey: "k",
    environment: { base: agent, production: agent, agent, agentRest: agent },
  });
  for (let m = 0; m < Number(each); m++) {
    const who = connections.length;
    const connection = await client.agent.v1.connect({ Authorization: "Token k" });
    connection.on("open", () => tell({ who, opened: true }));
    connection.on("message", (message) => {
      if (!(message instanceof Blob)) tell({ who, message });
    });
    connection.on("error", () => {});
    connection.on("close", (event) => tell({ who, closed: event.code }));
    connection.connect();
    connections.push(connection);
  }
}

let keepingAlive;
for await (const line of createInterface({ input: process.stdin })) {
  const { who, send } = JSON.parse(line);
  connections[who][METHODS[send.type]](send);
  keepingAlive ??= setInterval(() => {
    for (const connection of connections) {
      try {
        connection.sendKeepAlive({ type: "KeepAlive" });
      } catch {
        // not connected just now
      }
    }
  }, KEEP_ALIVE_MS);
}
clearInterval(keepingAlive);
for (const connection of connections) connection.close();
process.exit(); // an SDK that is between two attempts to connect would go on trying
