// node-postgres: `once`, or its Pool; `checked` with a listener for the pool's error event.
import fs from "node:fs";
import readline from "node:readline/promises";
import pg from "pg";

const [action, port, sslmode, root] = process.argv.slice(2);
const ssl = { disable: false, require: { rejectUnauthorized: false } }[sslmode] ?? { ca: fs.readFileSync(root, "utf8") };
const config = { host: "localhost", port, user: "postgres", database: "app", ssl };

if (action === "once") {
  const client = new pg.Client(config);
  await client.connect();
  console.log((await client.query("SELECT 42 AS answer")).rows[0].answer);
  await client.end();
} else {
  const pool = new pg.Pool({ ...config, max: 1, idleTimeoutMillis: 0 });
  if (action === "checked") pool.on("error", () => {});
  const query = async () => (await pool.query("SELECT 42 AS answer")).rows[0].answer;
  console.log("ready", await query());
  await readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]().next();
  for (let i = 0; i < 2; i++) {
    console.log(...(await query().then((value) => ["ok", value], (error) => ["error", `${error.code}: ${error.message}`])));
  }
  process.exit(0);
}
