// A stand-in for what the plug-in uses of Microsoft.Xrm.Sdk, with a small database behind it: rows with versions,
// alternate keys, locks that last until the end of a transaction, and transactions that a fault ends.

using System;
using System.Collections.Generic;
using System.Linq;
using System.ServiceModel;
using System.Threading;
using Microsoft.Xrm.Sdk;
using Microsoft.Xrm.Sdk.Messages;
using Microsoft.Xrm.Sdk.Metadata;
using Microsoft.Xrm.Sdk.Query;

namespace Microsoft.Xrm.Sdk
{
    public interface IPlugin
    {
        void Execute(IServiceProvider serviceProvider);
    }

    public interface IPluginExecutionContext
    {
        Dictionary<string, object> InputParameters { get; }
    }

    public interface IOrganizationServiceFactory
    {
        IOrganizationService CreateOrganizationService(Guid? userId);
    }

    public interface ITracingService
    {
        void Trace(string format, params object[] args);
    }

    public interface IManagedIdentityService
    {
        string AcquireToken(IEnumerable<string> scopes);
    }

    public interface IOrganizationService
    {
        OrganizationResponse Execute(OrganizationRequest request);

        Entity Retrieve(string entityName, Guid id, ColumnSet columnSet);

        EntityCollection RetrieveMultiple(QueryBase query);

        void Update(Entity entity);

        void Delete(string entityName, Guid id);
    }

    public sealed class InvalidPluginExecutionException : Exception
    {
        public InvalidPluginExecutionException(string message)
            : base(message)
        {
        }
    }

    public sealed class OrganizationServiceFault
    {
        public int ErrorCode { get; set; }
    }

    public class OrganizationRequest
    {
    }

    public class OrganizationResponse
    {
    }

    public sealed class EntityCollection
    {
        public List<Entity> Entities { get; } = new List<Entity>();
    }

    public enum ConcurrencyBehavior
    {
        Default,
        IfRowVersionMatches,
        AlwaysOverwrite,
    }

    public sealed class Entity
    {
        public Entity(string entityName, Guid id)
        {
            this.LogicalName = entityName;
            this.Id = id;
        }

        public string LogicalName { get; }

        public Guid Id { get; }

        public string RowVersion { get; set; }

        public Dictionary<string, object> Attributes { get; } = new Dictionary<string, object>();

        public object this[string name]
        {
            get { return this.Attributes[name]; }
            set { this.Attributes[name] = value; }
        }

        public T GetAttributeValue<T>(string name)
        {
            object value;
            return this.Attributes.TryGetValue(name, out value) && value != null ? (T)value : default(T);
        }
    }
}

namespace Microsoft.Xrm.Sdk.Messages
{
    public sealed class UpdateRequest : OrganizationRequest
    {
        public Entity Target { get; set; }

        public ConcurrencyBehavior ConcurrencyBehavior { get; set; }
    }

    public sealed class RetrieveEntityKeyRequest : OrganizationRequest
    {
        public string EntityLogicalName { get; set; }

        public string LogicalName { get; set; }
    }

    public sealed class RetrieveEntityKeyResponse : OrganizationResponse
    {
        public EntityKeyMetadata EntityKeyMetadata { get; set; }
    }
}

namespace Microsoft.Xrm.Sdk.Metadata
{
    public enum EntityKeyIndexStatus
    {
        Pending,
        InProgress,
        Active,
        Failed,
    }

    public sealed class EntityKeyMetadata
    {
        public EntityKeyIndexStatus EntityKeyIndexStatus { get; set; }
    }
}

namespace Microsoft.Xrm.Sdk.Query
{
    public enum OrderType
    {
        Ascending,
        Descending,
    }

    public enum ConditionOperator
    {
        Equal,
        LessThan,
    }

    public abstract class QueryBase
    {
    }

    public sealed class ColumnSet
    {
        public ColumnSet(bool allColumns)
        {
            this.Columns = new string[0];
        }

        public ColumnSet(params string[] columns)
        {
            this.Columns = columns;
        }

        public string[] Columns { get; }
    }

    public sealed class ConditionExpression
    {
        public ConditionExpression(string attributeName, ConditionOperator conditionOperator, object value)
        {
            this.AttributeName = attributeName;
            this.Operator = conditionOperator;
            this.Value = value;
        }

        public string AttributeName { get; }

        public ConditionOperator Operator { get; }

        public object Value { get; }
    }

    public sealed class FilterExpression
    {
        public List<ConditionExpression> Conditions { get; } = new List<ConditionExpression>();

        public void AddCondition(string attributeName, ConditionOperator conditionOperator, params object[] values)
        {
            this.AddCondition(new ConditionExpression(attributeName, conditionOperator, values.Single()));
        }

        public void AddCondition(ConditionExpression condition)
        {
            this.Conditions.Add(condition);
        }
    }

    public sealed class QueryExpression : QueryBase
    {
        public QueryExpression(string entityName)
        {
            this.EntityName = entityName;
        }

        public string EntityName { get; }

        public ColumnSet ColumnSet { get; set; }

        public int? TopCount { get; set; }

        public FilterExpression Criteria { get; } = new FilterExpression();
    }

    public sealed class QueryByAttribute : QueryBase
    {
        public QueryByAttribute(string entityName)
        {
            this.Query = new QueryExpression(entityName);
        }

        public QueryExpression Query { get; }

        public ColumnSet ColumnSet
        {
            get { return this.Query.ColumnSet; }
            set { this.Query.ColumnSet = value; }
        }

        public int? TopCount
        {
            get { return this.Query.TopCount; }
            set { this.Query.TopCount = value; }
        }

        public string OrderedBy { get; private set; }

        public void AddAttributeValue(string attributeName, object value)
        {
            this.Query.Criteria.AddCondition(attributeName, ConditionOperator.Equal, value);
        }

        public void AddOrder(string attributeName, OrderType orderType)
        {
            this.OrderedBy = attributeName;
        }
    }
}

namespace Harness
{
    public sealed class Database : IOrganizationService
    {
        public const int DuplicateKey = unchecked((int)0x80060892);
        public const int VersionMismatch = unchecked((int)0x80060882);
        public const int NotThere = unchecked((int)0x80040217);
        public const int NoTransaction = unchecked((int)0x80040251);
        private readonly object gate = new object();
        private readonly List<Entity> rows = new List<Entity>();
        private readonly Dictionary<Guid, Transaction> locks = new Dictionary<Guid, Transaction>();
        private long version;

        [ThreadStatic]
        private static Transaction current;

        public EntityKeyIndexStatus KeyStatus { get; set; } = EntityKeyIndexStatus.Active;

        /// <summary>What becomes of the next updates of the row with this state hash: a fault, or 0 for none.</summary>
        public List<KeyValuePair<string, int>> Faults { get; } = new List<KeyValuePair<string, int>>();

        /// <summary>Called when a transaction has to wait for a row of another one.</summary>
        public Action Blocked { get; set; } = () => { };

        /// <summary>Called when a row has been locked within a transaction.</summary>
        public Action Locked { get; set; } = () => { };

        public static FaultException<OrganizationServiceFault> Fault(int code)
        {
            if (current != null)
            {
                current.Ended = true;
            }

            return new FaultException<OrganizationServiceFault>(
                new OrganizationServiceFault { ErrorCode = code }, new FaultReason("fault"));
        }

        public IEnumerable<Entity> All()
        {
            lock (this.gate)
            {
                return this.rows.ToList();
            }
        }

        public void InTransaction(Action action)
        {
            current = new Transaction();
            try
            {
                action();
            }
            catch (Exception)
            {
                lock (this.gate)
                {
                    foreach (var undo in Enumerable.Reverse(current.Undo))
                    {
                        undo();
                    }
                }

                throw;
            }
            finally
            {
                lock (this.gate)
                {
                    foreach (var id in this.locks.Where(held => held.Value == current).Select(held => held.Key).ToList())
                    {
                        this.locks.Remove(id);
                    }

                    Monitor.PulseAll(this.gate);
                }

                current = null;
            }
        }

        public void Insert(Entity row)
        {
            lock (this.gate)
            {
                this.RequireTransaction();
                var key = row.LogicalName == "oacb_oauthcallback" ? "oacb_statehash" : "oacb_flowname";
                var active = this.KeyStatus == EntityKeyIndexStatus.Active;
                if (active && this.rows.Any(other => other.LogicalName == row.LogicalName
                    && Equals(other.GetAttributeValue<string>(key), row.GetAttributeValue<string>(key))))
                {
                    throw Fault(DuplicateKey);
                }

                row.RowVersion = (++this.version).ToString();
                if (!row.Attributes.ContainsKey("createdon"))
                {
                    row["createdon"] = DateTime.UtcNow;
                }

                this.rows.Add(row);
                current?.Undo.Add(() => this.rows.Remove(row));
            }
        }

        public OrganizationResponse Execute(OrganizationRequest request)
        {
            var update = request as UpdateRequest;
            if (update != null)
            {
                this.Write(update.Target, update.ConcurrencyBehavior == ConcurrencyBehavior.IfRowVersionMatches);
                return new OrganizationResponse();
            }

            var key = (RetrieveEntityKeyRequest)request;
            if (key.EntityLogicalName != "oacb_oauthcallback" || key.LogicalName != "oacb_statehashkey")
            {
                throw Fault(NotThere);
            }

            return new RetrieveEntityKeyResponse
            {
                EntityKeyMetadata = new EntityKeyMetadata { EntityKeyIndexStatus = this.KeyStatus },
            };
        }

        public void Update(Entity entity)
        {
            this.Write(entity, false);
        }

        public void Delete(string entityName, Guid id)
        {
            lock (this.gate)
            {
                this.RequireTransaction();
                var row = this.Row(id);
                this.rows.Remove(row);
                current?.Undo.Add(() => this.rows.Add(row));
            }
        }

        public Entity Retrieve(string entityName, Guid id, ColumnSet columnSet)
        {
            lock (this.gate)
            {
                this.RequireTransaction();
                return Copy(this.Row(id), columnSet);
            }
        }

        public EntityCollection RetrieveMultiple(QueryBase query)
        {
            lock (this.gate)
            {
                this.RequireTransaction();
                var byAttribute = query as QueryByAttribute;
                var expression = byAttribute == null ? (QueryExpression)query : byAttribute.Query;
                var found = this.rows.Where(row => row.LogicalName == expression.EntityName
                    && expression.Criteria.Conditions.All(condition => Holds(row, condition)));
                if (byAttribute != null && byAttribute.OrderedBy != null)
                {
                    found = found.OrderBy(row => row.GetAttributeValue<DateTime>(byAttribute.OrderedBy));
                }

                var answer = new EntityCollection();
                answer.Entities.AddRange(
                    found.Take(expression.TopCount ?? 5000).Select(row => Copy(row, expression.ColumnSet)));
                return answer;
            }
        }

        private static bool Holds(Entity row, ConditionExpression condition)
        {
            object value;
            row.Attributes.TryGetValue(condition.AttributeName, out value);
            return condition.Operator == ConditionOperator.Equal
                ? Equals(value, condition.Value)
                : value != null && (DateTime)value < (DateTime)condition.Value;
        }

        private static Entity Copy(Entity row, ColumnSet columns)
        {
            var copy = new Entity(row.LogicalName, row.Id) { RowVersion = row.RowVersion };
            foreach (var name in columns.Columns)
            {
                object value;
                if (row.Attributes.TryGetValue(name, out value) && value != null)
                {
                    copy[name] = value;
                }
            }

            return copy;
        }

        private void RequireTransaction()
        {
            if (current != null && current.Ended)
            {
                throw Fault(NoTransaction);
            }
        }

        private Entity Row(Guid id)
        {
            var row = this.rows.FirstOrDefault(other => other.Id == id);
            if (row == null)
            {
                throw Fault(NotThere);
            }

            return row;
        }

        private void Write(Entity entity, bool versioned)
        {
            lock (this.gate)
            {
                this.RequireTransaction();
                Transaction owner;
                while (this.locks.TryGetValue(entity.Id, out owner) && owner != current)
                {
                    this.Blocked();
                    Monitor.Wait(this.gate);
                }

                var row = this.Row(entity.Id);
                var fault = this.Faults.FindIndex(
                    planned => planned.Key == row.GetAttributeValue<string>("oacb_statehash"));
                if (fault >= 0)
                {
                    var code = this.Faults[fault].Value;
                    this.Faults.RemoveAt(fault);
                    if (code != 0)
                    {
                        throw Fault(code);
                    }
                }

                if (versioned && entity.RowVersion != row.RowVersion)
                {
                    throw Fault(VersionMismatch);
                }

                var before = new Dictionary<string, object>(row.Attributes);
                foreach (var change in entity.Attributes)
                {
                    row[change.Key] = change.Value;
                }

                row.RowVersion = (++this.version).ToString();
                if (current == null)
                {
                    return;
                }

                this.locks[entity.Id] = current;
                current.Undo.Add(() =>
                {
                    row.Attributes.Clear();
                    foreach (var old in before)
                    {
                        row[old.Key] = old.Value;
                    }
                });
            }

            this.Locked();
        }

        private sealed class Transaction
        {
            public bool Ended { get; set; }

            public List<Action> Undo { get; } = new List<Action>();
        }
    }
}
