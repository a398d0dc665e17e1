// Node with `ws`, as its documentation shows it: node ws_node.js PORT UPSTREAM_URL

import { WebSocket, WebSocketServer } from "ws";

const [port, upstreamUrl] = process.argv.slice(2);
const options = { perMessageDeflate: false };

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(port), ...options });

server.on("connection", (client) => {
  const upstream = new WebSocket(upstreamUrl, options);
  let settings, created;

  function configure() {
    if (!settings || !created) return;
    const session = { type: "realtime", instructions: settings.agent.think.prompt };
    upstream.send(JSON.stringify({ type: "session.update", session }));
    settings = undefined;
  }

  client.send(JSON.stringify({ type: "Welcome", request_id: "bench" }));

  client.on("message", (data, isBinary) => {
    if (isBinary) {
      const audio = data.toString("base64");
      upstream.send(JSON.stringify({ type: "input_audio_buffer.append", audio }));
    } else {
      settings = JSON.parse(data);
      configure();
    }
  });

  upstream.on("message", (data) => {
    const event = JSON.parse(data);
    if (event.type === "response.output_audio.delta") {
      client.send(Buffer.from(event.delta, "base64"));
    } else if (event.type === "session.created") {
      created = true;
      configure();
    } else if (event.type === "session.updated") {
      client.send(JSON.stringify({ type: "SettingsApplied" }));
    }
  });

  client.on("close", () => upstream.close());
  upstream.on("close", () => client.close());
  client.on("error", () => upstream.terminate());
  upstream.on("error", () => client.terminate());
});
