// What policy expressions see of API Management, and a loop that evaluates them.
//
// gateway.py writes the class `Expressions`, one method for each expression. Each line of the
// standard input is a JSON object: the number of an expression and its context. Each line of the
// output is the type and the value, or the type of an exception. A line with -1 asks for the
// members of .NET that the expressions use.
using System;
using System.Collections.Generic;
using System.Linq;
using System.Reflection;
using System.Reflection.Emit;
using Newtonsoft.Json;
using Newtonsoft.Json.Linq;

public interface IMessageBody { T As<T>(bool preserveContent = false); }

public interface IUrl
{
    string Path { get; }
    string QueryString { get; }
    IReadOnlyDictionary<string, string[]> Query { get; }
}

public interface IRequest
{
    string IpAddress { get; }
    string Method { get; }
    IUrl Url { get; }
    IReadOnlyDictionary<string, string[]> Headers { get; }
    IReadOnlyDictionary<string, string> MatchedParameters { get; }
}

public interface IResponse
{
    int StatusCode { get; }
    IMessageBody Body { get; }
    IReadOnlyDictionary<string, string[]> Headers { get; }
}

public interface ILastError { string Reason { get; } }

public interface IApi { string Path { get; } }

public interface IContext
{
    IApi Api { get; }
    ILastError LastError { get; }
    IRequest Request { get; }
    Guid RequestId { get; }
    IReadOnlyDictionary<string, object> Variables { get; }
}

public static class Extensions
{
    public static string GetValueOrDefault(this IReadOnlyDictionary<string, string[]> all, string name, string other)
    {
        return all.ContainsKey(name) ? string.Join(",", all[name]) : other;
    }

    public static string GetValueOrDefault(this IReadOnlyDictionary<string, string> all, string name, string other)
    {
        return all.ContainsKey(name) ? all[name] : other;
    }

    public static T GetValueOrDefault<T>(this IReadOnlyDictionary<string, object> all, string name, T other)
    {
        return all.ContainsKey(name) ? (T)all[name] : other;
    }
}

public class Body : IMessageBody
{
    private string text;

    public Body(string text) { this.text = text; }

    public T As<T>(bool preserveContent = false)
    {
        if (text == null) { throw new InvalidOperationException("The body was read already."); }
        object value = typeof(T) == typeof(string) ? (object)text
            : typeof(T) == typeof(JObject) ? JObject.Parse(text)
            : typeof(T) == typeof(JToken) ? JToken.Parse(text)
            : throw new NotSupportedException();
        if (!preserveContent) { text = null; }
        return (T)value;
    }
}

public class Response : IResponse
{
    public int StatusCode { get; set; }
    public IMessageBody Body { get; set; }
    public IReadOnlyDictionary<string, string[]> Headers { get; set; }
}

public class Context : IContext, IApi, IRequest, IUrl, ILastError
{
    public Context(JObject given)
    {
        QueryString = (string)given["query_string"];
        Query = Names(given["query"], StringComparer.Ordinal);
        Headers = Names(given["headers"], StringComparer.OrdinalIgnoreCase);
        MatchedParameters = given["matched"].ToObject<Dictionary<string, string>>();
        Method = (string)given["method"];
        IpAddress = (string)given["ip"];
        RequestId = Guid.Parse((string)given["request_id"]);
        Reason = (string)given["reason"];
        Path = (string)given["path"];
        var variables = new Dictionary<string, object>();
        foreach (var one in (JObject)given["variables"]) { variables[one.Key] = Value(one.Value); }
        Variables = variables;
    }

    public IApi Api { get { return this; } }
    public ILastError LastError { get { return Reason == null ? null : this; } }
    public IRequest Request { get { return this; } }
    public IUrl Url { get { return this; } }
    public Guid RequestId { get; }
    public string IpAddress { get; }
    public string Method { get; }
    public string Path { get; }
    public string QueryString { get; }
    public string Reason { get; }
    public IReadOnlyDictionary<string, string[]> Query { get; }
    public IReadOnlyDictionary<string, string[]> Headers { get; }
    public IReadOnlyDictionary<string, string> MatchedParameters { get; }
    public IReadOnlyDictionary<string, object> Variables { get; }

    private static Dictionary<string, string[]> Names(JToken given, StringComparer comparer)
    {
        return new Dictionary<string, string[]>(given.ToObject<Dictionary<string, string[]>>(), comparer);
    }

    private static object Value(JToken given)
    {
        if (given.Type == JTokenType.Integer) { return (int)given; }
        if (given.Type != JTokenType.Object) { return ((JValue)given).Value; }
        return new Response
        {
            StatusCode = (int)given["status"],
            Body = given["body"].Type == JTokenType.Null ? null : new Body((string)given["body"]),
            Headers = Names(given["headers"], StringComparer.OrdinalIgnoreCase),
        };
    }
}

public static class Program
{
    public static void Main()
    {
        JsonConvert.DefaultSettings = () => new JsonSerializerSettings { DateParseHandling = DateParseHandling.None };
        string line;
        while ((line = Console.In.ReadLine()) != null)
        {
            var asked = JsonConvert.DeserializeObject<JObject>(line);
            var number = (int)asked["expression"];
            JToken answer;
            try
            {
                answer = number < 0 ? new JArray(Members()) : Answer(Expressions.Evaluate(number, new Context((JObject)asked["context"])));
            }
            catch (Exception error) { answer = new JObject(new JProperty("error", error.GetType().FullName)); }
            Console.Out.WriteLine(answer.ToString(Formatting.None));
            Console.Out.Flush();
        }
    }

    private static JToken Answer(object value)
    {
        return new JObject(
            new JProperty("type", value == null ? null : value.GetType().FullName),
            new JProperty("value", value is string || value is int || value is bool ? value : Convert.ToString(value)));
    }

    // The IL of the expressions and of the lambdas in them names every member that they use.
    private static IEnumerable<string> Members()
    {
        var codes = typeof(OpCodes).GetFields().Select(field => (OpCode)field.GetValue(null)).ToDictionary(code => code.Value);
        var all = BindingFlags.Static | BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.DeclaredOnly;
        var types = new[] { typeof(Expressions) }.Concat(typeof(Expressions).GetNestedTypes(all));
        var found = new SortedSet<string>();
        foreach (var method in types.SelectMany(type => type.GetMethods(all)).Where(method => method.Name != "Evaluate"))
        {
            var il = method.GetMethodBody().GetILAsByteArray();
            for (var at = 0; at < il.Length;)
            {
                short value = il[at++];
                if (value == 0xFE) { value = (short)(0xFE00 | il[at++]); }
                var kind = codes[value].OperandType;
                if (kind == OperandType.InlineMethod || kind == OperandType.InlineField || kind == OperandType.InlineType || kind == OperandType.InlineTok)
                {
                    found.Add(Name(method.Module.ResolveMember(BitConverter.ToInt32(il, at))));
                }
                at += kind == OperandType.InlineNone ? 0
                    : kind == OperandType.ShortInlineBrTarget || kind == OperandType.ShortInlineI || kind == OperandType.ShortInlineVar ? 1
                    : kind == OperandType.InlineVar ? 2
                    : kind == OperandType.InlineI8 || kind == OperandType.InlineR ? 8
                    : kind == OperandType.InlineSwitch ? 4 + 4 * BitConverter.ToInt32(il, at)
                    : 4;
            }
        }
        return found;
    }

    private static string Name(MemberInfo member)
    {
        var type = member as Type;
        if (type != null) { return Plain(type); }
        return Plain(member.DeclaringType) + "::" + member.Name;
    }

    private static string Plain(Type type)
    {
        while (type.IsArray) { type = type.GetElementType(); }
        if (type.IsGenericType) { type = type.GetGenericTypeDefinition(); }
        return type.IsGenericParameter ? "System.Object" : type.FullName;
    }
}
