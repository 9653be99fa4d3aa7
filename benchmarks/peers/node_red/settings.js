// Node-RED as it comes, without the editor and without a word to the outside.
module.exports = {
  uiHost: "127.0.0.1",
  uiPort: Number(process.env.PORT),
  flowFile: process.env.FLOWS,
  httpAdminRoot: false,
  credentialSecret: false,
  telemetry: { enabled: false },
  diagnostics: { enabled: false },
  externalModules: { autoInstall: false },
  logging: { console: { level: "warn", metrics: false, audit: false } },
};
