// Microsoft's parser of KQL: what does it find in these queries?
//
// Standard input: {"tables": {name: columns as KQL writes them}, "queries": {name: text}}, in JSON.
// Standard output: {name: [what was found]}.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(import.meta.url);
require("@kusto/language-service-next/bridge.min.js");
require("@kusto/language-service-next/Kusto.Language.Bridge.min.js");

const { Kusto, Bridge, System } = globalThis;
const { Symbols, GlobalState, KustoCode } = Kusto.Language;
const { tables, queries } = JSON.parse(readFileSync(0, "utf-8"));

const known = Object.entries(tables).map(([name, columns]) =>
  Symbols.TableSymbol.From(`(${columns})`).WithName(name),
);
const database = new Symbols.DatabaseSymbol.$ctor1("", System.Array.init(known, Symbols.Symbol));
const globals = GlobalState.Default.WithDatabase(database);

const found = {};
for (const [name, text] of Object.entries(queries)) {
  const code = KustoCode.ParseAndAnalyze(text, globals);
  found[name] = Bridge.toArray(code.GetDiagnostics()).map((each) => each.Message);
}
console.log(JSON.stringify(found));
