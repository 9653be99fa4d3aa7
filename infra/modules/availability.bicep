// Asks from outside whether callbacks come through. The address has a `code`: the host looks for its
// keys in Blob storage then, as it does for a callback; /health alone would be answered without.
param token string
param location string
param tags object

@description('The Application Insights that the results go to.')
param insightsId string

@description('Address of the relay.')
param url string

var name = 'relay-health-${token}'
// West Europe, North Europe, East US, West US, Southeast Asia.
var places = ['emea-nl-ams-azr', 'emea-gb-db3-azr', 'us-va-ash-azr', 'us-ca-sjc-azr', 'apac-sg-sin-azr']

module test 'br/public:avm/res/insights/webtest:0.3.2' = {
  name: 'health'
  params: {
    name: name
    webTestName: name
    location: location
    tags: tags
    appInsightResourceId: insightsId
    kind: 'standard'
    enabled: true
    frequency: 900
    timeout: 30
    retryEnabled: true
    locations: map(places, place => { Id: place })
    request: {
      RequestUrl: '${url}/health?code=probe'
      HttpVerb: 'GET'
      FollowRedirects: false
      ParseDependentRequests: false
    }
    validationRules: {
      ExpectedHttpStatusCode: 200
      SSLCheck: true
      SSLCertRemainingLifetimeCheck: 7
    }
    enableTelemetry: false
  }
}

output name string = test.outputs.name
