// talker: the official JavaScript client on a leash. It knows how to reach the relay through
// @deepgram/sdk and what to do on command; the scenario stands in tests/clients.
//
//   node talker.mjs ws://127.0.0.1:PORT
//
// Standard input, one JSON object a line:
//   {"send": MESSAGE}                            through the SDK's own method for that type
//   {"stream": BASE64, "bytes": N, "every": S}   N bytes of audio every S seconds, as a microphone
// Its end closes the connection.
// Standard output, one JSON object a line: {"opened": true}, {"message": ...}, {"audio": BASE64},
// {"streamed": true}, {"closed": CODE}, {"failed": TEXT}.

import { createInterface } from "node:readline";
import { DeepgramClient } from "@deepgram/sdk";

const METHODS = {
  Settings: "sendSettings",
  UpdateListen: "sendUpdateListen",
  UpdateThink: "sendUpdateThink",
  UpdateSpeak: "sendUpdateSpeak",
  UpdatePrompt: "sendUpdatePrompt",
  InjectUserMessage: "sendInjectUserMessage",
  InjectAgentMessage: "sendInjectAgentMessage",
  FunctionCallResponse: "sendFunctionCallResponse",
  ForceEndTurn: "sendForceEndTurn",
  KeepAlive: "sendKeepAlive",
};

const tell = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

const agent = process.argv[2];
const client = new DeepgramClient({
  apiKey: "k",
  environment: { base: agent, production: agent, agent, agentRest: agent },
});
const connection = await client.agent.v1.connect({ Authorization: "Token k" });

// Unpacking a Blob takes a turn of the event loop: one chain keeps what came in the order it came.
let unpacked = Promise.resolve();
connection.on("open", () => tell({ opened: true }));
connection.on("message", (message) => {
  unpacked = unpacked.then(async () => {
    if (message instanceof Blob) {
      tell({ audio: Buffer.from(await message.arrayBuffer()).toString("base64") });
    } else {
      tell({ message });
    }
  });
});
connection.on("error", (error) => tell({ failed: String(error.message) }));
connection.on("close", (event) => {
  unpacked = unpacked.then(() => tell({ closed: event.code }));
});
connection.connect();

async function stream({ stream, bytes, every }) {
  const audio = Buffer.from(stream, "base64");
  const start = performance.now() / 1000;
  for (let i = 0; i * bytes < audio.length; i++) {
    await pause(Math.max(0, start + i * every - performance.now() / 1000));
    connection.sendMedia(audio.subarray(i * bytes, (i + 1) * bytes));
  }
  tell({ streamed: true });
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  if (command.send) {
    connection[METHODS[command.send.type]](command.send);
  } else if (command.stream) {
    void stream(command); // the microphone runs on while other commands come
  }
}
const open = connection.readyState === 1;
connection.close();
if (!open) {
  process.exit(); // it was about to reconnect, and would still wait for that
}
