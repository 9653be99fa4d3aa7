// An example of the code behind the table: two plug-in steps on Create of oacb_oauthcallback.
// For .NET Framework 4.6.2 and Microsoft.CrmSdk.CoreAssemblies. docs/dataverse.md tells how to register it.

using System;
using System.Collections.Generic;
using System.IO;
using System.Net.Http;
using System.Net.Http.Headers;
using System.Runtime.Serialization;
using System.Runtime.Serialization.Json;
using System.Security.Cryptography;
using System.ServiceModel;
using System.Text;
using System.Text.RegularExpressions;
using Microsoft.Xrm.Sdk;
using Microsoft.Xrm.Sdk.Messages;
using Microsoft.Xrm.Sdk.Query;

namespace OAuthCallback.Plugins
{
    /// <summary>
    /// Refuses a callback without a pending flow. Step: Create, pre-operation, synchronous.
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

            if (Find(dataverse, "oacb_oauthcallback", "oacb_statehash", stateHash) != null)
            {
                // The relay repeats a delivery whose answer was lost. The duplicate must fail at the alternate key,
                // whose 412 the relay treats as success; an exception from here would count as a refusal.
                return;
            }

            var pending = Find(
                dataverse, "oacb_oauthpendingstate", "oacb_flowname", FlowName(state),
                "oacb_connectionname", "oacb_statehash", "oacb_expiresat", "oacb_used");
            if (pending == null || !Matches(pending, callback, stateHash))
            {
                throw new InvalidPluginExecutionException("Dataverse does not wait for this state.");
            }

            if (pending.GetAttributeValue<bool>("oacb_used"))
            {
                throw new InvalidPluginExecutionException("The state has been used.");
            }

            // The relay may have held the callback, so the time that counts is when it received it.
            var receivedAt = callback.GetAttributeValue<DateTime?>("oacb_receivedat") ?? DateTime.UtcNow;
            if (receivedAt > pending.GetAttributeValue<DateTime>("oacb_expiresat") + Leeway)
            {
                throw new InvalidPluginExecutionException("The callback came after the end of its state.");
            }

            Take(dataverse, pending, stateHash);
        }

        private static bool Matches(Entity pending, Entity callback, string stateHash)
        {
            var known = pending.GetAttributeValue<string>("oacb_statehash");
            return pending.GetAttributeValue<string>("oacb_connectionname")
                    == callback.GetAttributeValue<string>("oacb_connectionname")
                && (string.IsNullOrEmpty(known) || known == stateHash);
        }

        private static void Take(IOrganizationService dataverse, Entity pending, string stateHash)
        {
            var used = new Entity(pending.LogicalName, pending.Id) { RowVersion = pending.RowVersion };
            used["oacb_used"] = true;
            used["oacb_statehash"] = stateHash;
            dataverse.Execute(new UpdateRequest
            {
                Target = used,
                ConcurrencyBehavior = ConcurrencyBehavior.IfRowVersionMatches,
            });
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
            var found = dataverse.RetrieveMultiple(query).Entities;
            return found.Count == 0 ? null : found[0];
        }
    }

    /// <summary>
    /// Redeems the code and stores the tokens in Key Vault. Step: Create, post-operation, asynchronous.
    /// </summary>
    /// <remarks>
    /// The step's unsecure configuration is <see cref="Settings"/> as JSON. The plug-in assembly needs a managed
    /// identity of Power Platform that may get and set secrets of the vault.
    /// </remarks>
    public sealed class RedeemCallback : IPlugin
    {
        private readonly Settings settings;

        public RedeemCallback(string unsecure)
        {
            this.settings = Json.Read<Settings>(unsecure);
        }

        public void Execute(IServiceProvider services)
        {
            var context = (IPluginExecutionContext)services.GetService(typeof(IPluginExecutionContext));
            var factory = (IOrganizationServiceFactory)services.GetService(typeof(IOrganizationServiceFactory));
            var dataverse = factory.CreateOrganizationService(null);
            var callback = dataverse.Retrieve(
                "oacb_oauthcallback", context.PrimaryEntityId,
                new ColumnSet(
                    "oacb_code", "oacb_codeverifier", "oacb_connectionname", "oacb_processed", "oacb_redirecturi",
                    "oacb_state"));

            if (callback.GetAttributeValue<string>("oacb_connectionname") != this.settings.ConnectionName
                || !Claim(dataverse, callback))
            {
                return;
            }

            var vault = new Vault(
                this.settings.Vault, (IManagedIdentityService)services.GetService(typeof(IManagedIdentityService)));
            var outcome = this.Redeem(dataverse, callback, vault);
            dataverse.Update(new Entity(callback.LogicalName, callback.Id) { ["oacb_outcome"] = outcome });
        }

        /// <summary>
        /// Claims the callback before the token request, so that a repeated job does not send a code twice: a
        /// provider that sees one twice revokes the tokens (RFC 6749, section 4.1.2).
        /// </summary>
        private static bool Claim(IOrganizationService dataverse, Entity callback)
        {
            if (callback.GetAttributeValue<bool>("oacb_processed"))
            {
                return false;
            }

            var claimed = new Entity(callback.LogicalName, callback.Id) { RowVersion = callback.RowVersion };
            claimed["oacb_processed"] = true;
            claimed["oacb_code"] = null;
            claimed["oacb_codeverifier"] = null;
            try
            {
                dataverse.Execute(new UpdateRequest
                {
                    Target = claimed,
                    ConcurrencyBehavior = ConcurrencyBehavior.IfRowVersionMatches,
                });
                return true;
            }
            catch (FaultException<OrganizationServiceFault>)
            {
                return false;
            }
        }

        private string Redeem(IOrganizationService dataverse, Entity callback, Vault vault)
        {
            var code = callback.GetAttributeValue<string>("oacb_code");
            if (string.IsNullOrEmpty(code))
            {
                return "declined";
            }

            // If the relay started the flow, it sends both with the code.
            var verifier = callback.GetAttributeValue<string>("oacb_codeverifier") ?? Verifier(dataverse, callback);
            var form = new Dictionary<string, string>
            {
                ["grant_type"] = "authorization_code",
                ["code"] = code,
                ["redirect_uri"] = callback.GetAttributeValue<string>("oacb_redirecturi") ?? this.settings.RedirectUri,
                ["client_id"] = this.settings.ClientId,
                ["client_secret"] = vault.Get(this.settings.ClientSecretName),
            };
            if (!string.IsNullOrEmpty(verifier))
            {
                form["code_verifier"] = verifier;
            }

            string answer;
            try
            {
                answer = this.Post(form);
            }
            catch (Exception error) when (error is HttpRequestException || error is AggregateException)
            {
                return "unreachable";
            }

            if (answer == null)
            {
                return "refused";
            }

            vault.Set(this.settings.TokensName, answer);
            return "redeemed";
        }

        private static string Verifier(IOrganizationService dataverse, Entity callback)
        {
            var flowName = CheckCallback.FlowName(callback.GetAttributeValue<string>("oacb_state") ?? string.Empty);
            return CheckCallback
                .Find(dataverse, "oacb_oauthpendingstate", "oacb_flowname", flowName, "oacb_codeverifier")
                ?.GetAttributeValue<string>("oacb_codeverifier");
        }

        /// <summary>Returns the tokens as JSON, or null when the provider refuses.</summary>
        private string Post(IDictionary<string, string> form)
        {
            using (var handler = new HttpClientHandler { AllowAutoRedirect = false })
            using (var client = new HttpClient(handler) { Timeout = TimeSpan.FromSeconds(30) })
            using (var content = new FormUrlEncodedContent(form))
            {
                client.DefaultRequestHeaders.ConnectionClose = true;
                using (var response = client.PostAsync(this.settings.TokenEndpoint, content).Result)
                {
                    return response.IsSuccessStatusCode ? response.Content.ReadAsStringAsync().Result : null;
                }
            }
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
    }

    /// <summary>Secrets of an Azure Key Vault, by its REST interface.</summary>
    public sealed class Vault
    {
        private const string Version = "?api-version=7.4";
        private readonly string address;
        private readonly string token;

        public Vault(string address, IManagedIdentityService identity)
        {
            this.address = address.TrimEnd('/') + "/secrets/";
            this.token = identity.AcquireToken(new List<string> { "https://vault.azure.net/.default" });
        }

        public string Get(string name)
        {
            using (var client = this.Client())
            using (var response = client.GetAsync(this.address + name + Version).Result)
            {
                response.EnsureSuccessStatusCode();
                return Json.Read<Secret>(response.Content.ReadAsStringAsync().Result).Value;
            }
        }

        public void Set(string name, string value)
        {
            var body = Json.Write(new Secret { Value = value });
            using (var client = this.Client())
            using (var content = new StringContent(body, Encoding.UTF8, "application/json"))
            using (var response = client.PutAsync(this.address + name + Version, content).Result)
            {
                response.EnsureSuccessStatusCode();
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
            [DataMember(Name = "value")]
            public string Value { get; set; }
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
    }
}
