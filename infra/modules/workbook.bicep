// The workbook: outcomes, how long deliveries take, how many attempts they need, and why some failed.
param location string
param tags object
param workspaceId string

var callbacks = loadTextContent('../queries/callbacks.kql')
var charts = [
  {
    title: 'Outcomes'
    query: loadTextContent('../queries/outcomes.kql')
    shape: 'barchart'
    needsCallbacks: true
  }
  {
    title: 'Milliseconds to deliver, first attempts'
    query: loadTextContent('../queries/latency.kql')
    shape: 'linechart'
    needsCallbacks: true
  }
  {
    title: 'Attempts until the end'
    query: loadTextContent('../queries/attempts.kql')
    shape: 'table'
    needsCallbacks: true
  }
  {
    title: 'Reasons'
    query: loadTextContent('../queries/reasons.kql')
    shape: 'table'
    needsCallbacks: true
  }
  {
    title: 'In the queues'
    query: loadTextContent('../queries/queues.kql')
    shape: 'table'
    needsCallbacks: false
  }
]

// https://learn.microsoft.com/azure/azure-monitor/visualize/workbooks-automate
resource workbook 'Microsoft.Insights/workbooks@2023-06-01' = {
  name: guid(workspaceId, 'relay-workbook')
  location: location
  tags: tags
  kind: 'shared'
  properties: {
    displayName: 'OAuth callback relay'
    category: 'workbook'
    sourceId: workspaceId
    version: 'Notebook/1.0'
    serializedData: string({
      version: 'Notebook/1.0'
      items: concat(
        [
          {
            type: 9
            name: 'parameters'
            content: {
              version: 'KqlParameterItem/1.0'
              parameters: [
                {
                  id: guid(workspaceId, 'time')
                  version: 'KqlParameterItem/1.0'
                  name: 'Time'
                  label: 'Time'
                  type: 4
                  isRequired: true
                  value: { durationMs: 604800000 }
                  typeSettings: {
                    selectableValues: [
                      { durationMs: 3600000 }
                      { durationMs: 86400000 }
                      { durationMs: 604800000 }
                      { durationMs: 2592000000 }
                    ]
                    allowCustom: true
                  }
                }
              ]
              style: 'pills'
              queryType: 0
              resourceType: 'microsoft.operationalinsights/workspaces'
            }
          }
        ],
        map(charts, chart => {
          type: 3
          name: chart.title
          content: {
            version: 'KqlItem/1.0'
            title: chart.title
            query: chart.needsCallbacks ? '${callbacks}\n${chart.query}' : chart.query
            size: 0
            timeContextFromParameter: 'Time'
            queryType: 0
            resourceType: 'microsoft.operationalinsights/workspaces'
            visualization: chart.shape
          }
        })
      )
      fallbackResourceIds: [workspaceId]
      '$schema': 'https://github.com/Microsoft/Application-Insights-Workbooks/blob/master/schema/workbook.json'
    })
  }
}

output id string = workbook.id
