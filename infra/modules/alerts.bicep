// The alerts. The queries in ../queries read the log lines of relay/log.py; the tests run their
// patterns over real lines.
param token string
param location string
param tags object
param workspaceId string

@description('E-mail addresses; none: alerts are only seen in the portal.')
param emails string[]
param heldMinutes int
param slowMilliseconds int

@description('ISO 8601 duration, or never.')
param silentWindow string

@description('There is an availability test to watch.')
param availabilityTest bool

// An ISO 8601 duration as KQL writes it.
var silence = (silentWindow == 'never') ? '1d' : toLower(replace(replace(silentWindow, 'PT', ''), 'P', ''))
var callbacks = loadTextContent('../queries/callbacks.kql')
var rules = [
  {
    name: 'rejected'
    title: 'Callbacks are refused for good'
    text: 'Entra or Dynamics refuses, or settings are wrong: look the reason up in docs/operate.md.'
    query: '${callbacks}\n${loadTextContent('../queries/rejected.kql')}'
    measure: 'lines'
    aggregation: 'Total'
    operator: 'GreaterThan'
    threshold: 0
    dimensions: ['outcome', 'connection', 'reason']
    severity: 1
    every: 'PT5M'
    window: 'PT15M'
    enabled: true
  }
  {
    name: 'held'
    title: 'Callbacks are held for long'
    text: 'Dynamics or Entra was out of reach for ${heldMinutes} minutes. Codes end after CODE_TTL.'
    query: '${callbacks}\nlet limit = ${heldMinutes}m;\n${loadTextContent('../queries/held.kql')}'
    measure: 'held'
    aggregation: 'Total'
    operator: 'GreaterThan'
    threshold: 0
    dimensions: ['connection', 'reason']
    severity: 2
    every: 'PT15M'
    window: 'PT6H'
    enabled: true
  }
  {
    name: 'expired'
    title: 'Held codes have expired'
    text: 'Dynamics or Entra came back too late, and these people have to start again: docs/operate-outbox.md.'
    query: '${callbacks}\n${loadTextContent('../queries/expired.kql')}'
    measure: 'lines'
    aggregation: 'Total'
    operator: 'GreaterThan'
    threshold: 0
    dimensions: ['connection']
    severity: 2
    every: 'PT15M'
    window: 'PT1H'
    enabled: true
  }
  {
    name: 'letters'
    title: 'The dead-letter or the poison queue is not empty'
    text: 'Somebody has to look at a message and take it out: docs/operate-outbox.md says how.'
    query: '${loadTextContent('../queries/queues.kql')}${loadTextContent('../queries/letters.kql')}'
    measure: 'messages'
    aggregation: 'Maximum'
    operator: 'GreaterThan'
    threshold: 0
    dimensions: ['queue']
    severity: 2
    every: 'PT15M'
    window: 'PT1H'
    enabled: true
  }
  {
    name: 'unsigned'
    title: 'Callbacks without a signed state are refused'
    text: 'Anybody can send such callbacks: it may be junk. STATE_POLICY=signed keeps that out.'
    query: '${callbacks}\n${loadTextContent('../queries/unsigned.kql')}'
    measure: 'lines'
    aggregation: 'Total'
    operator: 'GreaterThan'
    threshold: 0
    dimensions: ['connection', 'reason']
    severity: 3
    every: 'PT15M'
    window: 'PT1H'
    enabled: true
  }
  {
    name: 'capped'
    title: 'The log is full for today'
    text: 'LOG_DAILY_QUOTA_GB is reached: until tomorrow no other alert sees anything.'
    query: loadTextContent('../queries/capped.kql')
    measure: 'lines'
    aggregation: 'Total'
    operator: 'GreaterThan'
    threshold: 0
    dimensions: []
    severity: 2
    every: 'PT15M'
    window: 'PT1H'
    enabled: true
  }
  {
    name: 'quiet'
    title: 'The log has stopped'
    text: 'The app counts its queues every 15 minutes, and no count came: the other alerts may be blind.'
    query: loadTextContent('../queries/quiet.kql')
    measure: 'lines'
    aggregation: 'Total'
    operator: 'LessThan'
    threshold: 1
    dimensions: []
    severity: 2
    every: 'PT30M'
    window: 'PT2H'
    enabled: true
  }
  {
    name: 'slow'
    title: 'Deliveries are slow'
    text: 'The slowest twentieth took longer than ${slowMilliseconds} ms: docs/operate-monitoring.md.'
    query: '${callbacks}\n${loadTextContent('../queries/slow.kql')}'
    measure: 'p95'
    aggregation: 'Maximum'
    operator: 'GreaterThan'
    threshold: slowMilliseconds
    dimensions: []
    severity: 3
    every: 'PT15M'
    window: 'PT1H'
    enabled: true
  }
  {
    name: 'silent'
    title: 'No callback has been delivered'
    text: 'Not one in ${silentWindow}. Perhaps nobody needed it; perhaps the provider has dropped the redirect URI.'
    query: '${callbacks}\nlet silence = ${silence};\n${loadTextContent('../queries/silent.kql')}'
    measure: 'silent'
    aggregation: 'Total'
    operator: 'GreaterThan'
    threshold: 0
    dimensions: []
    severity: 3
    every: 'PT1H'
    window: 'P1D'
    // It has to see when it was not silent yet; Azure looks no further back.
    lookBack: 'P2D'
    enabled: silentWindow != 'never'
  }
  {
    name: 'unreachable'
    title: 'Callbacks do not come through'
    text: '/health?code=probe did not answer 200 in three places or more: docs/operate-storage.md.'
    query: loadTextContent('../queries/unreachable.kql')
    measure: 'places'
    aggregation: 'Maximum'
    operator: 'GreaterThan'
    threshold: 2
    dimensions: []
    severity: 1
    every: 'PT15M'
    window: 'PT30M'
    enabled: availabilityTest
  }
]

module people 'br/public:avm/res/insights/action-group:0.8.0' = {
  name: 'people'
  params: {
    name: 'ag-relay-${token}'
    groupShortName: 'relay'
    location: 'global'
    tags: tags
    emailReceivers: [
      for (email, index) in emails: {
        name: 'email-${index}'
        emailAddress: email
        useCommonAlertSchema: true
      }
    ]
    enableTelemetry: false
  }
}

module alert 'br/public:avm/res/insights/scheduled-query-rule:0.6.0' = [
  for rule in rules: {
    name: 'alert-${rule.name}'
    params: {
      name: 'relay-${rule.name}-${token}'
      location: location
      tags: tags
      alertDisplayName: 'OAuth callback relay: ${rule.title}'
      alertDescription: rule.text
      severity: rule.severity
      enabled: rule.enabled
      autoMitigate: true
      evaluationFrequency: rule.every
      windowSize: rule.window
      queryTimeRange: rule.?lookBack
      scopes: [workspaceId]
      // A table without any row yet is no error in the query.
      skipQueryValidation: true
      criterias: {
        allOf: [
          {
            query: rule.query
            timeAggregation: rule.aggregation
            metricMeasureColumn: rule.measure
            operator: rule.operator
            threshold: rule.threshold
            dimensions: map(rule.dimensions, dimension => { name: dimension, operator: 'Include', values: ['*'] })
            failingPeriods: { numberOfEvaluationPeriods: 1, minFailingPeriodsToAlert: 1 }
          }
        ]
      }
      actions: { actionGroupResourceIds: [people.outputs.resourceId] }
      enableTelemetry: false
    }
  }
]

output names string[] = [for (rule, index) in rules: alert[index].outputs.name]
