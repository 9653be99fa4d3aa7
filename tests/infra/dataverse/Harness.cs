// Drives the plug-in: one command a line, a name and a JSON object of strings; one JSON array of such objects back.

using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Runtime.Serialization.Json;
using System.ServiceModel;
using System.Text;
using System.Threading;
using Microsoft.Xrm.Sdk;
using Microsoft.Xrm.Sdk.Metadata;
using OAuthCallback.Plugins;
using Row = System.Collections.Generic.Dictionary<string, string>;

namespace Harness
{
    public static class Program
    {
        private static readonly DataContractJsonSerializerSettings Simple =
            new DataContractJsonSerializerSettings { UseSimpleDictionaryFormat = true };

        private static Database database = new Database();
        private static bool identityFails;
        private static bool servicesFail;

        public static void Main(string[] arguments)
        {
            // Into the store of this process's HOME, which is a folder of the test.
            var authority = new Mono.Security.X509.X509Certificate(File.ReadAllBytes(arguments[0]));
            Mono.Security.X509.X509StoreManager.NewCurrentUser.TrustedRoot.Import(authority);
            string line;
            while ((line = Console.In.ReadLine()) != null)
            {
                var parts = line.Split(new[] { ' ' }, 2);
                Console.Out.WriteLine(Write(Run(parts[0], Read(parts[1]))));
                Console.Out.Flush();
            }
        }

        private static Row[] Run(string command, Row given)
        {
            switch (command)
            {
                case "reset":
                    database = new Database();
                    identityFails = false;
                    servicesFail = false;
                    return new Row[0];
                case "insert":
                    database.Insert(Typed(given));
                    return new Row[0];
                case "change":
                    var wanted = Typed(given);
                    foreach (var row in database.All().Where(row => row.LogicalName == wanted.LogicalName))
                    {
                        database.Update(Renamed(wanted, row.Id));
                    }

                    return new Row[0];
                case "rows":
                    return database.All().Where(row => row.LogicalName == given["table"]).Select(Texts).ToArray();
                case "create":
                    return new[] { Create(given) };
                case "create-twice":
                    return CreateAtOnce(given);
                case "key":
                    database.KeyStatus = (EntityKeyIndexStatus)Enum.Parse(typeof(EntityKeyIndexStatus), given["status"]);
                    return new Row[0];
                case "fault":
                    database.Faults.Add(new KeyValuePair<string, int>(
                        given["state hash"], unchecked((int)Convert.ToUInt32(given["code"], 16))));
                    return new Row[0];
                case "identity":
                    identityFails = given["fails"] == "true";
                    return new Row[0];
                case "services":
                    servicesFail = given["fail"] == "true";
                    return new Row[0];
                case "redeem":
                    return Redeem(given["configuration"]);
                case "redeem-twice":
                    return RedeemAtOnce(given["configuration"]);
                default:
                    throw new ArgumentException(command);
            }
        }

        /// <summary>What the Web API does for a POST: the step and the insert in one transaction.</summary>
        private static Row Create(Row given)
        {
            var row = Typed(given);
            try
            {
                database.InTransaction(() =>
                {
                    new CheckCallback().Execute(new Services(row));
                    database.Insert(row);
                });
                return new Row { { "created", "yes" } };
            }
            catch (InvalidPluginExecutionException refusal)
            {
                return new Row { { "refused", refusal.Message } };
            }
            catch (FaultException<OrganizationServiceFault> fault)
            {
                return new Row { { "fault", fault.Detail.ErrorCode.ToString("X8") } };
            }
        }

        /// <summary>Two creates of which the second comes while the first one's transaction is open.</summary>
        private static Row[] CreateAtOnce(Row given)
        {
            Row second = null;
            Thread thread = null;
            var reached = new ManualResetEventSlim();
            database.Blocked = reached.Set;
            database.Locked = () =>
            {
                if (thread == null)
                {
                    thread = new Thread(() =>
                    {
                        second = Create(given);
                        reached.Set();
                    });
                    thread.Start();
                    reached.Wait();
                }
            };
            var first = Create(given);
            thread.Join();
            return new[] { first, second };
        }

        /// <summary>One system job. Returns the lines of its trace, and what it failed with.</summary>
        private static Row[] Redeem(string configuration)
        {
            var services = new Services(new Entity("none", Guid.Empty));
            try
            {
                new RedeemCallback(configuration).Execute(services);
            }
            catch (Exception failure)
            {
                return new[] { new Row { { "failed", failure.GetType().Name } } };
            }

            return services.Lines.Select(line => new Row { { "traced", line } }).ToArray();
        }

        private static Row[] RedeemAtOnce(string configuration)
        {
            var threads = Enumerable.Range(0, 2).Select(number => new Thread(
                () => new RedeemCallback(configuration).Execute(new Services(new Entity("none", Guid.Empty))))).ToList();
            threads.ForEach(thread => thread.Start());
            threads.ForEach(thread => thread.Join());
            return new Row[0];
        }

        private static Entity Renamed(Entity row, Guid id)
        {
            var copy = new Entity(row.LogicalName, id);
            foreach (var pair in row.Attributes)
            {
                copy[pair.Key] = pair.Value;
            }

            return copy;
        }

        private static Entity Typed(Row given)
        {
            var row = new Entity(given["table"], Guid.NewGuid());
            foreach (var pair in given.Where(pair => pair.Key != "table"))
            {
                if (pair.Key.EndsWith("at") || pair.Key == "createdon")
                {
                    row[pair.Key] = DateTime.Parse(pair.Value, null, DateTimeStyles.AdjustToUniversal);
                }
                else if (pair.Key == "oacb_processed" || pair.Key == "oacb_used")
                {
                    row[pair.Key] = bool.Parse(pair.Value);
                }
                else
                {
                    row[pair.Key] = pair.Value;
                }
            }

            return row;
        }

        private static Row Texts(Entity row)
        {
            return row.Attributes.Where(pair => pair.Value != null)
                .ToDictionary(pair => pair.Key, pair => Convert.ToString(pair.Value, CultureInfo.InvariantCulture));
        }

        private static Row Read(string json)
        {
            using (var stream = new MemoryStream(Encoding.UTF8.GetBytes(json)))
            {
                return (Row)new DataContractJsonSerializer(typeof(Row), Simple).ReadObject(stream);
            }
        }

        private static string Write(Row[] rows)
        {
            using (var stream = new MemoryStream())
            {
                new DataContractJsonSerializer(typeof(Row[]), Simple).WriteObject(stream, rows);
                return Encoding.UTF8.GetString(stream.ToArray());
            }
        }

        private sealed class Services :
            IServiceProvider, IPluginExecutionContext, IOrganizationServiceFactory, IManagedIdentityService,
            ITracingService
        {
            public Services(Entity target)
            {
                this.InputParameters = new Dictionary<string, object> { { "Target", target } };
            }

            public Dictionary<string, object> InputParameters { get; }

            public List<string> Lines { get; } = new List<string>();

            public object GetService(Type serviceType)
            {
                if (servicesFail)
                {
                    throw new InvalidPluginExecutionException("no service");
                }

                return this;
            }

            public void Trace(string format, params object[] args)
            {
                this.Lines.Add(string.Format(CultureInfo.InvariantCulture, format, args));
            }

            public IOrganizationService CreateOrganizationService(Guid? userId)
            {
                return database;
            }

            public string AcquireToken(IEnumerable<string> scopes)
            {
                if (identityFails)
                {
                    throw new InvalidPluginExecutionException("no identity");
                }

                return "token-for-" + scopes.Single();
            }
        }
    }
}
