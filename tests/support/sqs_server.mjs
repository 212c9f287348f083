// node sqs_server.mjs FOLDER PORT: the SQS server of the npm package local-aws-sqs that is in FOLDER.
import { createRequire } from "node:module";

const [folder, port] = process.argv.slice(2);
const { createSqsServer } = createRequire(`${folder}/`)("local-aws-sqs");
await createSqsServer({ port: Number(port), hostname: "127.0.0.1", emulateQueueCreationLifecycle: false });
