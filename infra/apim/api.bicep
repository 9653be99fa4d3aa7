// The API in an instance that exists: first its named values, then the policies that use them.
// main.bicep describes the parameters.
param serviceName string
param apiPath string
param callbackPath string
param namedValues object
param clientId string
param tokenEndpoint string
param vaultName string
param secretName string

var keyVaultSecretsUser = '4633458b-17de-408a-b874-0445c86b69e6'
var hasSecret = !empty(clientId)
var headers = loadTextContent('headers.xml')
var tokenPolicy = hasSecret ? loadTextContent('token.secret.xml') : loadTextContent('token.identity.xml')
var policies = {
  callback: replace(
    replace(loadTextContent('callback.policy.xml'), '<!-- token.xml -->', tokenPolicy),
    '<!-- headers.xml -->',
    headers
  )
  probe: replace(loadTextContent('probe.policy.xml'), '<!-- headers.xml -->', headers)
  done: replace(loadTextContent('done.policy.xml'), '<!-- headers.xml -->', headers)
}
var operations = [
  {
    name: 'callback'
    displayName: 'The redirect URI'
    method: 'GET'
    urlTemplate: callbackPath
    policy: policies.callback
  }
  {
    name: 'callback-head'
    displayName: 'The redirect URI, probed'
    method: 'HEAD'
    urlTemplate: callbackPath
    policy: policies.probe
  }
  {
    name: 'callback-options'
    displayName: 'The redirect URI, asked for its methods'
    method: 'OPTIONS'
    urlTemplate: callbackPath
    policy: policies.probe
  }
  {
    name: 'done'
    displayName: 'The page at the end'
    method: 'GET'
    urlTemplate: '/done/{outcome}'
    policy: policies.done
  }
  {
    name: 'done-head'
    displayName: 'The page at the end, probed'
    method: 'HEAD'
    urlTemplate: '/done/{outcome}'
    policy: policies.done
  }
]
var outcome = { name: 'outcome', type: 'string', required: true }

resource service 'Microsoft.ApiManagement/service@2024-05-01' existing = {
  name: serviceName
}

resource vault 'Microsoft.KeyVault/vaults@2026-02-01' existing = if (hasSecret) {
  name: hasSecret ? vaultName : 'none'
}

module access 'br/public:avm/ptn/authorization/resource-role-assignment:0.1.2' = if (hasSecret) {
  name: 'apim-reads-secret'
  params: {
    principalId: service.identity.principalId
    principalType: 'ServicePrincipal'
    resourceId: vault.id
    roleDefinitionId: keyVaultSecretsUser
    description: 'API Management reads the client secret.'
    enableTelemetry: false
  }
}

resource values 'Microsoft.ApiManagement/service/namedValues@2024-05-01' = [
  for one in items(namedValues): {
    parent: service
    name: one.key
    properties: { displayName: one.key, value: one.value }
  }
]

resource client 'Microsoft.ApiManagement/service/namedValues@2024-05-01' = if (hasSecret) {
  parent: service
  name: 'relay-client-id'
  properties: { displayName: 'relay-client-id', value: clientId }
}

resource endpoint 'Microsoft.ApiManagement/service/namedValues@2024-05-01' = if (hasSecret) {
  parent: service
  name: 'relay-token-endpoint'
  properties: { displayName: 'relay-token-endpoint', value: tokenEndpoint }
}

resource secret 'Microsoft.ApiManagement/service/namedValues@2024-05-01' = if (hasSecret) {
  parent: service
  name: 'relay-client-secret'
  dependsOn: [access]
  properties: {
    displayName: 'relay-client-secret'
    secret: true
    keyVault: { secretIdentifier: '${vault!.properties.vaultUri}secrets/${secretName}' }
  }
}

resource api 'Microsoft.ApiManagement/service/apis@2024-05-01' = {
  parent: service
  name: 'oauth-callback'
  dependsOn: [values, client, endpoint, secret]
  properties: {
    displayName: 'OAuth callback'
    path: apiPath
    protocols: ['https']
    subscriptionRequired: false
  }
}

resource operation 'Microsoft.ApiManagement/service/apis/operations@2024-05-01' = [
  for one in operations: {
    parent: api
    name: one.name
    properties: {
      displayName: one.displayName
      method: one.method
      urlTemplate: one.urlTemplate
      templateParameters: contains(one.urlTemplate, '{outcome}') ? [outcome] : []
    }
  }
]

resource policy 'Microsoft.ApiManagement/service/apis/operations/policies@2024-05-01' = [
  for (one, index) in operations: {
    parent: operation[index]
    name: 'policy'
    properties: { format: 'xml', value: one.policy }
  }
]

output redirectUri string = '${service.properties.gatewayUrl}${empty(apiPath) ? '' : '/${apiPath}'}${callbackPath}'
output identityObjectId string = service.identity.principalId
