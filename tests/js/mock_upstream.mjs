// mock_upstream: npm @copilotkit/aimock as an upstream. It knows how to start it, and nothing of the
// relay.
//
//   node mock_upstream.mjs FIXTURES
//
// FIXTURES is a JSON array of aimock's fixture entries: what it answers to what. Prints its port, and
// ends when its standard input does.

import { LLMock } from "@copilotkit/aimock";

const mock = new LLMock({ host: "127.0.0.1", port: 0 });
mock.addFixturesFromJSON(process.argv[2]);
await mock.start();
process.stdout.write(`${mock.port}\n`);
process.stdin.resume();
process.stdin.on("end", () => mock.stop());
