// The code behind the tables: a step that checks each callback, and a step that redeems the codes.
// .NET Framework 4.6.2, C# 7. infra/dynamics/README.md has the states and their order; docs/dataverse.md tells how to
// build and register it.

using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Net;
using System.Net.Http;
using System.Net.Http.Headers;
using System.Runtime.Serialization;
using System.Runtime.Serialization.Json;
using System.Security.Cryptography;
using System.ServiceModel;
using System.Text;
using System.Text.RegularExpressions;
using System.Xml;
using System.Xml.Linq;
using Microsoft.Xrm.Sdk;
using Microsoft.Xrm.Sdk.Messages;
using Microsoft.Xrm.Sdk.Metadata;
using Microsoft.Xrm.Sdk.Query;

namespace OAuthCallback.Plugins
{
    /// <summary>
    /// Refuses a callback without a pending flow. Step: Create of oacb_oauthcallback, pre-operation, synchronous.
    /// </summary>
    /// <remarks>
    /// No message contains a value: neither the relay nor Dataverse's trace log may show any.
    /// </remarks>
    public sealed class CheckCallback : IPlugin
    {
        private static readonly TimeSpan Leeway = TimeSpan.FromSeconds(60);

        public void Execute(IServiceProvider services)
        {
            var context = (IPluginExecutionContext)services.GetService(typeof(IPluginExecutionContext));
            var factory = (IOrganizationServiceFactory)services.GetService(typeof(IOrganizationServiceFactory));

            // As SYSTEM: the relay's role may not read the pending states.
            var dataverse = factory.CreateOrganizationService(null);
            var callback = (Entity)context.InputParameters["Target"];
            var state = callback.GetAttributeValue<string>("oacb_state") ?? string.Empty;
            var stateHash = callback.GetAttributeValue<string>("oacb_statehash");
            if (stateHash != Hash(state))
            {
                throw new InvalidPluginExecutionException("The hash does not belong to the state.");
            }

            var hasCode = !string.IsNullOrEmpty(callback.GetAttributeValue<string>("oacb_code"));

            // The second of two simultaneous creates waits here until the first one's transaction has ended.
            var flowName = FlowName(state);
            var pending = Lock(dataverse, flowName);
            if (IsOfAnsweredTicket(pending, callback, flowName))
            {
                // Another state that the same ticket started has an answer here. The body names {state_jti}, so the
                // relay knows what a duplicate means then: let this one fail at the key of that answer.
                stateHash = pending.GetAttributeValue<string>("oacb_statehash");
                callback["oacb_statehash"] = stateHash;
                hasCode = false;
            }

            var stored = Find(dataverse, "oacb_oauthcallback", "oacb_statehash", stateHash, "oacb_outcome");
            var replaces = hasCode && stored?.GetAttributeValue<string>("oacb_outcome") == Outcome.Declined;
            if (stored != null && !replaces)
            {
                // The relay repeats a delivery whose answer was lost. The duplicate must fail at the alternate key,
                // whose 412 the relay treats as success; an exception from here would count as a refusal.
                RequireActiveKey(dataverse);
                return;
            }

            if (pending == null || !Matches(pending, callback, stateHash))
            {
                throw new InvalidPluginExecutionException("Dataverse does not wait for this state.");
            }

            if (pending.GetAttributeValue<bool>("oacb_used") && !replaces)
            {
                throw new InvalidPluginExecutionException("The state has been used.");
            }

            // The relay may have held the callback, so the time that counts is when it received it.
            var receivedAt = callback.GetAttributeValue<DateTime?>("oacb_receivedat") ?? DateTime.UtcNow;
            if (receivedAt > pending.GetAttributeValue<DateTime>("oacb_expiresat") + Leeway)
            {
                throw new InvalidPluginExecutionException("The callback came after the end of its state.");
            }

            if (replaces)
            {
                dataverse.Delete(stored.LogicalName, stored.Id);
            }

            callback["oacb_processed"] = !hasCode;
            callback["oacb_outcome"] = hasCode ? Outcome.Waiting : Outcome.Declined;
            Take(dataverse, pending, callback, hasCode);
        }

        private static bool IsOfAnsweredTicket(Entity pending, Entity callback, string flowName)
        {
            return pending != null
                && pending.GetAttributeValue<bool>("oacb_used")
                && callback.GetAttributeValue<string>("oacb_flowname") == flowName
                && pending.GetAttributeValue<string>("oacb_statehash")
                    != callback.GetAttributeValue<string>("oacb_statehash");
        }

        private static bool Matches(Entity pending, Entity callback, string stateHash)
        {
            var known = pending.GetAttributeValue<string>("oacb_statehash");
            return pending.GetAttributeValue<string>("oacb_connectionname")
                    == callback.GetAttributeValue<string>("oacb_connectionname")
                && (string.IsNullOrEmpty(known) || known == stateHash);
        }

        /// <summary>
        /// Returns a flow and locks its row until the transaction ends, or returns null.
        /// </summary>
        /// <remarks>
        /// An update takes the lock and a read does not. A fault that is caught within a transaction ends it, so the
        /// row version cannot decide here.
        /// </remarks>
        private static Entity Lock(IOrganizationService dataverse, string flowName)
        {
            var found = flowName.Length == 0
                ? null
                : Find(dataverse, "oacb_oauthpendingstate", "oacb_flowname", flowName);
            if (found == null)
            {
                return null;
            }

            dataverse.Update(new Entity(found.LogicalName, found.Id) { ["oacb_lockedat"] = DateTime.UtcNow });
            return dataverse.Retrieve(
                found.LogicalName, found.Id,
                new ColumnSet(
                    "oacb_codeverifier", "oacb_connectionname", "oacb_expiresat", "oacb_statehash", "oacb_used"));
        }

        /// <summary>
        /// Marks a flow as used, and moves its code verifier to the callback: it goes where the code goes.
        /// </summary>
        private static void Take(IOrganizationService dataverse, Entity pending, Entity callback, bool hasCode)
        {
            var used = new Entity(pending.LogicalName, pending.Id)
            {
                ["oacb_used"] = true,
                ["oacb_statehash"] = callback["oacb_statehash"],
                ["oacb_outcome"] = callback["oacb_outcome"],
            };
            if (hasCode)
            {
                // If the relay started the flow, it sends the verifier with the code.
                if (string.IsNullOrEmpty(callback.GetAttributeValue<string>("oacb_codeverifier")))
                {
                    callback["oacb_codeverifier"] = pending.GetAttributeValue<string>("oacb_codeverifier");
                }

                used["oacb_codeverifier"] = null;
            }

            dataverse.Update(used);
        }

        /// <summary>Throws while the index of the alternate key is being built: a duplicate would be stored.</summary>
        private static void RequireActiveKey(IOrganizationService dataverse)
        {
            var answer = (RetrieveEntityKeyResponse)dataverse.Execute(new RetrieveEntityKeyRequest
            {
                EntityLogicalName = "oacb_oauthcallback",
                LogicalName = "oacb_statehashkey",
            });
            if (answer.EntityKeyMetadata.EntityKeyIndexStatus != EntityKeyIndexStatus.Active)
            {
                throw new InvalidPluginExecutionException("The key of the callbacks is not active.");
            }
        }

        /// <summary>Returns the jti of a state, or an empty text. The signature is not checked.</summary>
        internal static string FlowName(string state)
        {
            var parts = state.Split('.');
            if (parts.Length != 3 || !Regex.IsMatch(parts[1], "^[A-Za-z0-9_-]+$") || parts[1].Length % 4 == 1)
            {
                return string.Empty;
            }

            var base64 = parts[1].Replace('-', '+').Replace('_', '/');
            base64 = base64.PadRight((base64.Length + 3) / 4 * 4, '=');
            var claims = Encoding.UTF8.GetString(Convert.FromBase64String(base64));
            return Regex.Match(claims, "(?<=\"jti\" ?: ?\")[A-Za-z0-9_-]{16,64}(?=\")").Value;
        }

        /// <summary>Returns the SHA-256 as 64 hex digits in lower case: the relay's {state_hash}.</summary>
        internal static string Hash(string state)
        {
            using (var sha256 = SHA256.Create())
            {
                return BitConverter.ToString(sha256.ComputeHash(Encoding.UTF8.GetBytes(state)))
                    .Replace("-", string.Empty).ToLowerInvariant();
            }
        }

        internal static Entity Find(
            IOrganizationService dataverse, string table, string column, string value, params string[] columns)
        {
            var query = new QueryByAttribute(table) { ColumnSet = new ColumnSet(columns), TopCount = 1 };
            query.AddAttributeValue(column, value);
            return dataverse.RetrieveMultiple(query).Entities.FirstOrDefault();
        }
    }

    /// <summary>The states of a callback, and of the flow that it answers: infra/dynamics/README.md.</summary>
    internal static class Outcome
    {
        internal const string Waiting = "waiting";
        internal const string Redeeming = "redeeming";
        internal const string Redeemed = "redeemed";
        internal const string Declined = "declined";
        internal const string Expired = "expired";
        internal const string Refused = "refused";
        internal const string Unreachable = "unreachable";
        internal const string NotSetUp = "not set up";
        internal const string NotStored = "tokens not stored yet";
        internal const string Interrupted = "interrupted";
    }

    /// <summary>
    /// Redeems the codes of one connection and stores the tokens in Key Vault. Step: Create of oacb_oauthcallback,
    /// post-operation, asynchronous; and Update of its column oacb_retryat, which runs it again.
    /// </summary>
    /// <remarks>
    /// The step's unsecure configuration is <see cref="Settings"/> as JSON. The plug-in assembly needs a managed
    /// identity of Power Platform that may get and set secrets of the vault. It never throws: a failed system job would
    /// keep the context, and with it the code.
    /// </remarks>
    public sealed class RedeemCallback : IPlugin
    {
        // A plug-in may run for two minutes: another row is begun in the first one.
        private static readonly TimeSpan Budget = TimeSpan.FromSeconds(60);

        // Read in Execute: an exception of the constructor would fail the job.
        private readonly string unsecure;

        public RedeemCallback(string unsecure)
        {
            this.unsecure = unsecure;
        }

        public void Execute(IServiceProvider services)
        {
            Redemption run = null;
            Quietly(() => run = this.Begin(services));
            if (run == null)
            {
                // The callbacks keep waiting, so nothing else would tell.
                Quietly(() => ((ITracingService)services.GetService(typeof(ITracingService))).Trace(
                    "RedeemCallback took no callback: look at the unsecure configuration of its step."));
                return;
            }

            var end = DateTime.UtcNow + Budget;
            Quietly(() =>
            {
                foreach (var callback in run.Open())
                {
                    if (DateTime.UtcNow < end)
                    {
                        Quietly(() => run.Advance(callback));
                    }
                }
            });
            Quietly(run.Purge);
        }

        /// <summary>Returns the run for the connection of this step. Throws when the configuration has none.</summary>
        private Redemption Begin(IServiceProvider services)
        {
            var settings = Json.Read<Settings>(this.unsecure);
            if (string.IsNullOrEmpty(settings?.ConnectionName))
            {
                throw new InvalidOperationException("The configuration has no connection.");
            }

            var factory = (IOrganizationServiceFactory)services.GetService(typeof(IOrganizationServiceFactory));
            var identity = (IManagedIdentityService)services.GetService(typeof(IManagedIdentityService));
            return new Redemption(settings, factory.CreateOrganizationService(null), identity);
        }

        /// <summary>Runs one part of the job. What it throws must stop no other part.</summary>
        private static void Quietly(Action part)
        {
            try
            {
                part();
            }
            catch (Exception)
            {
                // The row says how far it came. A message could quote an answer, and would be kept in the system job.
            }
        }
    }

    /// <summary>Takes the open callbacks of one connection from state to state.</summary>
    internal sealed class Redemption
    {
        private static readonly TimeSpan InterruptedAfter = TimeSpan.FromMinutes(10);
        private static readonly TimeSpan LongestHold = TimeSpan.FromHours(24);
        private static readonly TimeSpan KeepClosed = TimeSpan.FromDays(30);
        private readonly Settings settings;
        private readonly IOrganizationService dataverse;
        private readonly IManagedIdentityService identity;

        internal Redemption(Settings settings, IOrganizationService dataverse, IManagedIdentityService identity)
        {
            this.settings = settings;
            this.dataverse = dataverse;
            this.identity = identity;
        }

        /// <summary>Returns the callbacks of this connection that have not ended, the oldest first.</summary>
        internal IEnumerable<Entity> Open()
        {
            var query = new QueryByAttribute("oacb_oauthcallback")
            {
                ColumnSet = new ColumnSet(
                    "oacb_claimedat", "oacb_code", "oacb_codeverifier", "oacb_connectionname", "oacb_expiresat",
                    "oacb_heldkey", "oacb_heldtokens", "oacb_outcome", "oacb_redirecturi", "oacb_state", "createdon"),
                TopCount = 50,
            };
            query.AddAttributeValue("oacb_connectionname", this.settings.ConnectionName);
            query.AddAttributeValue("oacb_processed", false);
            query.AddOrder("createdon", OrderType.Ascending);
            return this.dataverse.RetrieveMultiple(query).Entities.ToList();
        }

        /// <summary>Takes one callback as far as it goes.</summary>
        internal void Advance(Entity callback)
        {
            var now = DateTime.UtcNow;
            switch (callback.GetAttributeValue<string>("oacb_outcome"))
            {
                case Outcome.Redeeming:
                    if (now > callback.GetAttributeValue<DateTime>("oacb_claimedat") + InterruptedAfter)
                    {
                        this.Close(callback, Outcome.Interrupted);
                    }

                    break;
                case Outcome.NotStored:
                    if (now > callback.GetAttributeValue<DateTime>("oacb_claimedat") + LongestHold)
                    {
                        this.Close(callback, Outcome.Interrupted);
                    }
                    else
                    {
                        this.StoreHeld(callback);
                    }

                    break;
                default:
                    if (string.IsNullOrEmpty(callback.GetAttributeValue<string>("oacb_code")))
                    {
                        this.Close(callback, Outcome.Declined);
                    }
                    else if (now > (callback.GetAttributeValue<DateTime?>("oacb_expiresat") ?? DateTime.MaxValue)
                        || now > callback.GetAttributeValue<DateTime>("createdon") + LongestHold)
                    {
                        this.Close(callback, Outcome.Expired);
                    }
                    else
                    {
                        this.Redeem(callback);
                    }

                    break;
            }
        }

        /// <summary>
        /// Redeems a code: first everything that can fail, then the claim, then the one request, then the vault.
        /// </summary>
        private void Redeem(Entity callback)
        {
            Preparation ready;
            try
            {
                ready = this.Prepare();
            }
            catch (Exception)
            {
                this.Note(callback, Outcome.NotSetUp);
                return;
            }

            this.Claim(callback);

            // From here on the code is in this method only.
            var answer = this.Ask(callback, ready.ClientSecret);
            switch (answer.Verdict)
            {
                case Verdict.Tokens:
                    this.Store(callback, ready, answer.Tokens);
                    break;
                case Verdict.Again:
                    this.PutBack(callback);
                    break;
                case Verdict.NotSetUp:
                    this.Finish(callback, Outcome.NotSetUp);
                    break;
                case Verdict.Refused:
                    this.Finish(callback, Outcome.Refused);
                    break;
                default:
                    this.Finish(callback, Outcome.Unreachable);
                    break;
            }
        }

        /// <summary>
        /// Reads the secret, and has the vault prove that it stores secrets of this name, before the code is spent.
        /// </summary>
        private Preparation Prepare()
        {
            if (!Uri.TryCreate(this.settings.TokenEndpoint, UriKind.Absolute, out var endpoint)
                || endpoint.Scheme != Uri.UriSchemeHttps)
            {
                throw new InvalidOperationException("The token endpoint is no https address.");
            }

            var vault = new Vault(this.settings.Vault, this.identity);
            var secret = vault.Get(this.settings.ClientSecretName);
            if (string.IsNullOrEmpty(secret))
            {
                throw new InvalidOperationException("The client secret has no value.");
            }

            if (vault.Get(this.settings.TokensName) == null)
            {
                // The first connect. A name that the vault refuses, such as a deleted secret's, must fail here.
                vault.Set(this.settings.TokensName, "{}");
            }

            var key = HeldTokens.NewKey();
            return new Preparation
            {
                ClientSecret = secret,
                HoldKey = key,
                HoldVersion = vault.Set(this.settings.TokensName + "-hold", Convert.ToBase64String(key)),
                Vault = vault,
            };
        }

        /// <summary>
        /// Marks the callback as being redeemed, and empties it. A version conflict says that another job has it; that
        /// and every other fault end this job's part in the callback, and no code has been sent.
        /// </summary>
        private void Claim(Entity callback)
        {
            this.Update(callback, versioned: true, outcome: Outcome.Redeeming, change: row =>
            {
                row["oacb_claimedat"] = DateTime.UtcNow;
                row["oacb_code"] = null;
                row["oacb_codeverifier"] = null;
            });
        }

        /// <summary>
        /// Sends the one token request. Whatever goes wrong, the code is not sent again: the provider may have it.
        /// </summary>
        private TokenAnswer Ask(Entity callback, string clientSecret)
        {
            var form = new Dictionary<string, string>
            {
                ["grant_type"] = "authorization_code",
                ["code"] = callback.GetAttributeValue<string>("oacb_code"),
                ["redirect_uri"] = callback.GetAttributeValue<string>("oacb_redirecturi") ?? this.settings.RedirectUri,
            };
            var verifier = callback.GetAttributeValue<string>("oacb_codeverifier");
            if (!string.IsNullOrEmpty(verifier))
            {
                form["code_verifier"] = verifier;
            }

            try
            {
                return this.Post(form, clientSecret);
            }
            catch (Exception)
            {
                // No connection, time-out, or an answer that is too long. The message may quote it.
                return TokenAnswer.Of(Verdict.Unreachable);
            }
        }

        private TokenAnswer Post(IDictionary<string, string> form, string clientSecret)
        {
            // A redirect would take the secret to another address.
            using (var handler = new HttpClientHandler { AllowAutoRedirect = false })
            using (var client = new HttpClient(handler)
            {
                MaxResponseContentBufferSize = 1 << 20,
                Timeout = TimeSpan.FromSeconds(30),
            })
            {
                client.DefaultRequestHeaders.ConnectionClose = true;
                client.DefaultRequestHeaders.Accept.Add(new MediaTypeWithQualityHeaderValue("application/json"));
                if (this.settings.SecretInHeader)
                {
                    var pair = Uri.EscapeDataString(this.settings.ClientId) + ":" + Uri.EscapeDataString(clientSecret);
                    client.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue(
                        "Basic", Convert.ToBase64String(Encoding.UTF8.GetBytes(pair)));
                }
                else
                {
                    form["client_id"] = this.settings.ClientId;
                    form["client_secret"] = clientSecret;
                }

                using (var content = new FormUrlEncodedContent(form))
                using (var response = client.PostAsync(this.settings.TokenEndpoint, content).GetAwaiter().GetResult())
                {
                    var body = response.Content.ReadAsStringAsync().GetAwaiter().GetResult();
                    return TokenAnswer.Of((int)response.StatusCode, body);
                }
            }
        }

        /// <summary>Stores tokens in the vault; when it refuses them they wait in the row, encrypted.</summary>
        private void Store(Entity callback, Preparation ready, string tokens)
        {
            try
            {
                tokens = this.Complete(tokens, ready.Vault);
                ready.Vault.Set(this.settings.TokensName, tokens);
            }
            catch (Exception)
            {
                this.Keep(callback, HeldTokens.Encrypt(ready.HoldKey, tokens), ready.HoldVersion);
                return;
            }

            this.Finish(callback, Outcome.Redeemed);
        }

        /// <summary>Adds to an answer what it lacks: the times, and the refresh token that is still valid.</summary>
        private string Complete(string tokens, Vault vault)
        {
            var now = DateTime.UtcNow;
            var answer = Json.Parse(tokens);
            var seconds = TokenAnswer.Seconds(answer);
            var refresh = Json.Text(Json.Parse(vault.Get(this.settings.TokensName) ?? "{}"), "refresh_token");
            var added = ",\"relay_obtained_at\":" + Json.Write(Json.Time(now));
            if (seconds.HasValue)
            {
                added += ",\"relay_expires_at\":" + Json.Write(Json.Time(now.AddSeconds(seconds.Value)));
            }

            if (Json.Text(answer, "refresh_token").Length == 0 && refresh.Length > 0)
            {
                added += ",\"refresh_token\":" + Json.Write(refresh);
            }

            // The answer itself stays as it is: an object with at least the access token.
            return tokens.Substring(0, tokens.LastIndexOf('}')) + added + "}";
        }

        private void Keep(Entity callback, string encrypted, string keyVersion)
        {
            for (var attempt = 1; ; attempt++)
            {
                try
                {
                    this.Update(callback, versioned: false, outcome: Outcome.NotStored, change: row =>
                    {
                        row["oacb_heldtokens"] = encrypted;
                        row["oacb_heldkey"] = keyVersion;
                    });
                    return;
                }
                catch (FaultException) when (attempt < 3)
                {
                    // The tokens are nowhere else.
                }
            }
        }

        private void StoreHeld(Entity callback)
        {
            var vault = new Vault(this.settings.Vault, this.identity);
            var key = Convert.FromBase64String(
                vault.Get(this.settings.TokensName + "-hold/" + callback.GetAttributeValue<string>("oacb_heldkey")));
            var held = HeldTokens.Decrypt(key, callback.GetAttributeValue<string>("oacb_heldtokens"));
            var current = Json.Text(Json.Parse(vault.Get(this.settings.TokensName) ?? "{}"), "relay_obtained_at");
            var claimedAt = Json.Time(callback.GetAttributeValue<DateTime>("oacb_claimedat"));
            if (string.CompareOrdinal(current, claimedAt) > 0)
            {
                // Somebody has connected again meanwhile; these tokens are older.
                this.Close(callback, Outcome.Interrupted);
                return;
            }

            vault.Set(this.settings.TokensName, held);
            this.Close(callback, Outcome.Redeemed);
        }

        /// <summary>Puts the code back for the next run, after an answer that says: later.</summary>
        private void PutBack(Entity callback)
        {
            this.Update(callback, versioned: false, outcome: Outcome.Waiting, change: row =>
            {
                row["oacb_claimedat"] = null;
                row["oacb_code"] = callback["oacb_code"];
                row["oacb_codeverifier"] = callback.GetAttributeValue<string>("oacb_codeverifier");
            });
        }

        /// <summary>Shows why nothing happened; the callback stays open and keeps its code.</summary>
        private void Note(Entity callback, string outcome)
        {
            this.Update(callback, versioned: true, outcome: outcome, change: row => { });
        }

        /// <summary>Ends a callback that this job has claimed.</summary>
        private void Finish(Entity callback, string outcome)
        {
            this.Update(callback, versioned: false, outcome: outcome, change: Empty);
        }

        /// <summary>Ends a callback that this job has only read.</summary>
        private void Close(Entity callback, string outcome)
        {
            this.Update(callback, versioned: true, outcome: outcome, change: Empty);
        }

        private static void Empty(Entity row)
        {
            row["oacb_processed"] = true;
            row["oacb_code"] = null;
            row["oacb_codeverifier"] = null;
            row["oacb_heldkey"] = null;
            row["oacb_heldtokens"] = null;
        }

        private void Update(Entity callback, bool versioned, string outcome, Action<Entity> change)
        {
            var row = new Entity(callback.LogicalName, callback.Id) { ["oacb_outcome"] = outcome };
            change(row);
            if (versioned)
            {
                row.RowVersion = callback.RowVersion;
            }

            this.dataverse.Execute(new UpdateRequest
            {
                Target = row,
                ConcurrencyBehavior = versioned
                    ? ConcurrencyBehavior.IfRowVersionMatches
                    : ConcurrencyBehavior.AlwaysOverwrite,
            });
            if (outcome != Outcome.Redeeming)
            {
                this.Tell(callback, outcome);
            }
        }

        /// <summary>Shows the outcome in the flow, to the person who started it.</summary>
        private void Tell(Entity callback, string outcome)
        {
            var flowName = CheckCallback.FlowName(callback.GetAttributeValue<string>("oacb_state") ?? string.Empty);
            var pending = CheckCallback.Find(this.dataverse, "oacb_oauthpendingstate", "oacb_flowname", flowName);
            if (pending != null)
            {
                this.dataverse.Update(
                    new Entity(pending.LogicalName, pending.Id) { ["oacb_outcome"] = outcome });
            }
        }

        /// <summary>
        /// Deletes the flows that ended a day ago and the callbacks that were closed a month ago. A used state outlives
        /// its callback, or it could be used again: flows go by their own end only.
        /// </summary>
        internal void Purge()
        {
            var now = DateTime.UtcNow;
            this.Delete("oacb_oauthpendingstate", "oacb_expiresat", now - LongestHold);
            this.Delete(
                "oacb_oauthcallback", "createdon", now - KeepClosed,
                new ConditionExpression("oacb_processed", ConditionOperator.Equal, true));
        }

        private void Delete(string table, string column, DateTime before, params ConditionExpression[] further)
        {
            var query = new QueryExpression(table) { ColumnSet = new ColumnSet(false), TopCount = 50 };
            query.Criteria.AddCondition(column, ConditionOperator.LessThan, before);
            foreach (var condition in further)
            {
                query.Criteria.AddCondition(condition);
            }

            foreach (var row in this.dataverse.RetrieveMultiple(query).Entities)
            {
                this.dataverse.Delete(table, row.Id);
            }
        }

        private sealed class Preparation
        {
            internal string ClientSecret { get; set; }

            internal byte[] HoldKey { get; set; }

            internal string HoldVersion { get; set; }

            internal Vault Vault { get; set; }
        }
    }

    /// <summary>What a token endpoint's answer means.</summary>
    internal enum Verdict
    {
        Tokens,
        Again,
        Refused,
        NotSetUp,
        Unreachable,
    }

    /// <summary>An answer of a token endpoint (RFC 6749, section 5).</summary>
    internal sealed class TokenAnswer
    {
        private const double LongestSeconds = 10 * 365 * 24 * 3600.0;

        private TokenAnswer(Verdict verdict, string tokens)
        {
            this.Verdict = verdict;
            this.Tokens = tokens;
        }

        internal Verdict Verdict { get; }

        /// <summary>The answer as it came, where it has tokens.</summary>
        internal string Tokens { get; }

        internal static TokenAnswer Of(Verdict verdict)
        {
            return new TokenAnswer(verdict, null);
        }

        /// <summary>Reads status and body.</summary>
        internal static TokenAnswer Of(int status, string body)
        {
            var answer = Json.Parse(body);
            var error = Json.Text(answer, "error");
            if (status == 429 || status == 503)
            {
                return Of(Verdict.Again);
            }

            if (status < 200 || (status > 299 && status < 400) || status == 408 || status > 499)
            {
                return Of(Verdict.Unreachable);
            }

            if (error == "invalid_client" || error == "unauthorized_client")
            {
                return Of(Verdict.NotSetUp);
            }

            if (status > 399 || error.Length > 0)
            {
                return Of(Verdict.Refused);
            }

            return Json.Text(answer, "access_token").Length > 0
                ? new TokenAnswer(Verdict.Tokens, body)
                : Of(Verdict.Unreachable);
        }

        /// <summary>Returns how long a token lives, or null where the provider does not say.</summary>
        internal static double? Seconds(XElement tokens)
        {
            var given = tokens?.Element("expires_in")?.Value ?? string.Empty;
            return double.TryParse(given, NumberStyles.Float, CultureInfo.InvariantCulture, out var seconds)
                && !double.IsNaN(seconds)
                ? Math.Min(Math.Max(seconds, 0), LongestSeconds)
                : (double?)null;
        }
    }

    /// <summary>The unsecure configuration of the step: nothing secret, only names of secrets.</summary>
    [DataContract]
    public sealed class Settings
    {
        [DataMember(Name = "connectionName", IsRequired = true)]
        public string ConnectionName { get; set; }

        [DataMember(Name = "tokenEndpoint", IsRequired = true)]
        public string TokenEndpoint { get; set; }

        [DataMember(Name = "redirectUri", IsRequired = true)]
        public string RedirectUri { get; set; }

        [DataMember(Name = "clientId", IsRequired = true)]
        public string ClientId { get; set; }

        [DataMember(Name = "vault", IsRequired = true)]
        public string Vault { get; set; }

        [DataMember(Name = "clientSecretName", IsRequired = true)]
        public string ClientSecretName { get; set; }

        [DataMember(Name = "tokensName", IsRequired = true)]
        public string TokensName { get; set; }

        /// <summary>Whether the secret goes into the header: client_secret_basic.</summary>
        [DataMember(Name = "secretInHeader")]
        public bool SecretInHeader { get; set; }
    }

    /// <summary>Secrets of an Azure Key Vault, by its REST interface.</summary>
    public sealed class Vault
    {
        private const string Version = "?api-version=7.4";
        private readonly string address;
        private readonly string token;

        public Vault(string address, IManagedIdentityService identity)
        {
            if (!address.StartsWith("https://", StringComparison.OrdinalIgnoreCase))
            {
                throw new InvalidOperationException("The vault is no https address.");
            }

            this.address = address.TrimEnd('/') + "/secrets/";
            this.token = identity.AcquireToken(new List<string> { "https://vault.azure.net/.default" });
        }

        /// <summary>Returns the value of a secret, or null when there is no such secret.</summary>
        public string Get(string name)
        {
            using (var client = this.Client())
            using (var response = client.GetAsync(this.address + name + Version).GetAwaiter().GetResult())
            {
                if (response.StatusCode == HttpStatusCode.NotFound)
                {
                    return null;
                }

                response.EnsureSuccessStatusCode();
                return Json.Read<Secret>(response.Content.ReadAsStringAsync().GetAwaiter().GetResult()).Value;
            }
        }

        /// <summary>Stores a new version of a secret, and returns the name of the version.</summary>
        public string Set(string name, string value)
        {
            var body = Json.Write(new Secret { Value = value });
            using (var client = this.Client())
            using (var content = new StringContent(body, Encoding.UTF8, "application/json"))
            using (var response = client.PutAsync(this.address + name + Version, content).GetAwaiter().GetResult())
            {
                response.EnsureSuccessStatusCode();
                var stored = Json.Read<Secret>(response.Content.ReadAsStringAsync().GetAwaiter().GetResult());
                return stored.Id.Substring(stored.Id.LastIndexOf('/') + 1);
            }
        }

        private HttpClient Client()
        {
            var client = new HttpClient { Timeout = TimeSpan.FromSeconds(30) };
            client.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", this.token);
            client.DefaultRequestHeaders.ConnectionClose = true;
            return client;
        }

        [DataContract]
        public sealed class Secret
        {
            [DataMember(Name = "id", EmitDefaultValue = false)]
            public string Id { get; set; }

            [DataMember(Name = "value")]
            public string Value { get; set; }
        }
    }

    /// <summary>
    /// Tokens that the vault did not take: encrypted in the row, under a key that only the vault has.
    /// </summary>
    /// <remarks>AES-256 in CBC mode, then HMAC-SHA256 over it: .NET Framework 4.6.2 has no AES-GCM.</remarks>
    internal static class HeldTokens
    {
        private const int Half = 32;

        internal static byte[] NewKey()
        {
            var key = new byte[2 * Half];
            using (var random = RandomNumberGenerator.Create())
            {
                random.GetBytes(key);
            }

            return key;
        }

        internal static string Encrypt(byte[] key, string text)
        {
            using (var aes = Aes.Create())
            using (var hmac = new HMACSHA256(key.Skip(Half).ToArray()))
            {
                aes.Key = key.Take(Half).ToArray();
                aes.GenerateIV();
                using (var encryptor = aes.CreateEncryptor())
                {
                    var plain = Encoding.UTF8.GetBytes(text);
                    var sealedText = aes.IV.Concat(encryptor.TransformFinalBlock(plain, 0, plain.Length)).ToArray();
                    return Convert.ToBase64String(sealedText.Concat(hmac.ComputeHash(sealedText)).ToArray());
                }
            }
        }

        internal static string Decrypt(byte[] key, string text)
        {
            var all = Convert.FromBase64String(text);
            var sealedText = all.Take(all.Length - Half).ToArray();
            using (var aes = Aes.Create())
            using (var hmac = new HMACSHA256(key.Skip(Half).ToArray()))
            {
                if (!hmac.ComputeHash(sealedText).SequenceEqual(all.Skip(sealedText.Length)))
                {
                    throw new CryptographicException("The held tokens were changed.");
                }

                aes.Key = key.Take(Half).ToArray();
                aes.IV = sealedText.Take(16).ToArray();
                using (var decryptor = aes.CreateDecryptor())
                {
                    return Encoding.UTF8.GetString(
                        decryptor.TransformFinalBlock(sealedText, 16, sealedText.Length - 16));
                }
            }
        }
    }

    internal static class Json
    {
        public static T Read<T>(string json)
        {
            using (var stream = new MemoryStream(Encoding.UTF8.GetBytes(json)))
            {
                return (T)new DataContractJsonSerializer(typeof(T)).ReadObject(stream);
            }
        }

        public static string Write<T>(T value)
        {
            using (var stream = new MemoryStream())
            {
                new DataContractJsonSerializer(typeof(T)).WriteObject(stream, value);
                return Encoding.UTF8.GetString(stream.ToArray());
            }
        }

        /// <summary>Returns a JSON object in .NET's mapping to XML, or null when the text is none.</summary>
        public static XElement Parse(string json)
        {
            try
            {
                using (var reader = JsonReaderWriterFactory.CreateJsonReader(
                    Encoding.UTF8.GetBytes(json), XmlDictionaryReaderQuotas.Max))
                {
                    var root = XElement.Load(reader);
                    return (string)root.Attribute("type") == "object" ? root : null;
                }
            }
            catch (XmlException)
            {
                return null;
            }
            catch (FormatException)
            {
                return null;
            }
        }

        /// <summary>Returns a member that is a string; an empty text for every other.</summary>
        public static string Text(XElement element, string name)
        {
            var member = element?.Element(name);
            return (string)member?.Attribute("type") == "string" ? member.Value : string.Empty;
        }

        public static string Time(DateTime utc)
        {
            return utc.ToString("yyyy-MM-ddTHH:mm:ssZ", CultureInfo.InvariantCulture);
        }
    }
}
