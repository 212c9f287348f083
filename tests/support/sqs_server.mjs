// node sqs_server.mjs FOLDER PORT: the SQS server of the npm package local-aws-sqs that is in FOLDER. Its seconds
// are SPEED times as short: a second is the least that messages stay invisible, and every kill of a worker waits for it.
import { createRequire } from "node:module";

const SPEED = 5;
const [folder, port] = process.argv.slice(2);
const { createSqsServer } = createRequire(`${folder}/`)("local-aws-sqs");
const real = globalThis.setTimeout;
globalThis.setTimeout = (work, ms, ...rest) => real(work, ms >= 1000 ? ms / SPEED : ms, ...rest);
await createSqsServer({ port: Number(port), hostname: "127.0.0.1", emulateQueueCreationLifecycle: false });
