// Express 5 with MSAL Node, as one would write it: MSAL keeps the token, fetch keeps connections.
import { ConfidentialClientApplication } from "@azure/msal-node";
import express from "express";

const { AUTHORITY, CLIENT_ID, CLIENT_SECRET, DYNAMICS_SCOPE, DYNAMICS_URL, PORT } = process.env;

const entra = new ConfidentialClientApplication({
  auth: {
    clientId: CLIENT_ID,
    clientSecret: CLIENT_SECRET,
    authority: AUTHORITY,
    // The real Entra is known to MSAL, which then asks nobody about it either.
    knownAuthorities: [new URL(AUTHORITY).host],
  },
});

const app = express();
app.disable("x-powered-by");

app.get("/callback", async (request, response) => {
  const { code, state } = request.query;
  if (typeof code !== "string" || typeof state !== "string") {
    response.status(400).json({ outcome: "invalid" });
    return;
  }
  const { accessToken } = await entra.acquireTokenByClientCredential({ scopes: [DYNAMICS_SCOPE] });
  const answer = await fetch(DYNAMICS_URL, {
    method: "POST",
    headers: {
      Authorization: `Bearer ${accessToken}`,
      "Content-Type": "application/json",
      Prefer: "return=minimal",
    },
    body: JSON.stringify({ code, state }),
  });
  await answer.arrayBuffer(); // or the connection is not used again
  response.status(answer.ok ? 200 : 502).json({ outcome: answer.ok ? "delivered" : "rejected" });
});

app.listen(Number(PORT), "127.0.0.1");
