// postgres.js, which is always a pool: `once`, or across a sleep.
import fs from "node:fs";
import readline from "node:readline/promises";
import postgres from "postgres";

const [action, port, sslmode, root] = process.argv.slice(2);
const ssl = { disable: false, require: "require" }[sslmode] ?? { ca: fs.readFileSync(root, "utf8") };
const sql = postgres({ host: "localhost", port, username: "postgres", database: "app", ssl, max: 1 });
const query = async () => (await sql`SELECT 42 AS answer`)[0].answer;

if (action === "once") {
  console.log(await query());
} else {
  console.log("ready", await query());
  await readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]().next();
  for (let i = 0; i < 2; i++) {
    console.log(...(await query().then((value) => ["ok", value], (error) => ["error", `${error.code}: ${error.message}`])));
  }
}
await sql.end();
process.exit(0);
