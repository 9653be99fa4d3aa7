// The route from Front Door to the app: TLS, a rate limit, no cache.
param token string
param tags object
param profileName string
param originHostName string

@description('Custom domain; empty: Front Door\'s own name.')
param customDomain string

@description('Requests in five minutes from one address.')
param rateLimit int

resource profile 'Microsoft.Cdn/profiles@2025-12-01' existing = {
  name: profileName
}

resource endpoint 'Microsoft.Cdn/profiles/afdEndpoints@2025-12-01' = {
  parent: profile
  name: 'relay-${token}'
  location: 'global'
  tags: tags
  properties: { enabledState: 'Enabled' }
}

resource origins 'Microsoft.Cdn/profiles/originGroups@2025-12-01' = {
  parent: profile
  name: 'relay'
  properties: {
    loadBalancingSettings: { sampleSize: 4, successfulSamplesRequired: 3, additionalLatencyInMilliseconds: 50 }
    // No probe: it would keep an instance warm, and there is only one origin.
    sessionAffinityState: 'Disabled'
  }
}

resource origin 'Microsoft.Cdn/profiles/originGroups/origins@2025-12-01' = {
  parent: origins
  name: 'app'
  properties: {
    hostName: originHostName
    originHostHeader: originHostName
    httpsPort: 443
    priority: 1
    weight: 1000
    enforceCertificateNameCheck: true
  }
}

resource domain 'Microsoft.Cdn/profiles/customDomains@2025-12-01' = if (!empty(customDomain)) {
  parent: profile
  name: empty(customDomain) ? 'none' : replace(customDomain, '.', '-')
  properties: {
    hostName: customDomain
    tlsSettings: { certificateType: 'ManagedCertificate', minimumTlsVersion: 'TLS12' }
  }
}

resource route 'Microsoft.Cdn/profiles/afdEndpoints/routes@2025-12-01' = {
  parent: endpoint
  name: 'relay'
  // An origin group without an origin is refused.
  dependsOn: [origin]
  properties: {
    originGroup: { id: origins.id }
    customDomains: empty(customDomain) ? [] : [{ id: domain.id }]
    patternsToMatch: ['/callback', '/callback/*', '/authorize/*', '/done/*', '/health']
    supportedProtocols: ['Http', 'Https']
    httpsRedirect: 'Enabled'
    forwardingProtocol: 'HttpsOnly'
    // With a custom domain there is one redirect URI, not two.
    linkToDefaultDomain: empty(customDomain) ? 'Enabled' : 'Disabled'
    enabledState: 'Enabled'
    // No cacheConfiguration: nothing is cached.
  }
}

module firewall 'br/public:avm/res/network/front-door-web-application-firewall-policy:0.3.3' = {
  name: 'firewall'
  params: {
    name: 'wafRelay${token}'
    location: 'global'
    tags: tags
    sku: 'Standard_AzureFrontDoor'
    managedRules: { managedRuleSets: [] }
    policySettings: {
      enabledState: 'Enabled'
      mode: 'Prevention'
      customBlockResponseStatusCode: 429
      logScrubbing: {
        state: 'Enabled'
        scrubbingRules: [
          { matchVariable: 'QueryStringArgNames', selectorMatchOperator: 'EqualsAny', state: 'Enabled' }
          { matchVariable: 'RequestBodyPostArgNames', selectorMatchOperator: 'EqualsAny', state: 'Enabled' }
          { matchVariable: 'RequestBodyJsonArgNames', selectorMatchOperator: 'EqualsAny', state: 'Enabled' }
          { matchVariable: 'RequestHeaderNames', selectorMatchOperator: 'EqualsAny', state: 'Enabled' }
          { matchVariable: 'RequestCookieNames', selectorMatchOperator: 'EqualsAny', state: 'Enabled' }
        ]
      }
    }
    customRules: {
      rules: [
        {
          name: 'RateLimitPerAddress'
          priority: 100
          enabledState: 'Enabled'
          ruleType: 'RateLimitRule'
          rateLimitDurationInMinutes: 5
          rateLimitThreshold: rateLimit
          action: 'Block'
          matchConditions: [
            {
              matchVariable: 'SocketAddr'
              operator: 'IPMatch'
              negateCondition: false
              matchValue: ['0.0.0.0/0', '::/0']
            }
          ]
        }
      ]
    }
    enableTelemetry: false
  }
}

resource protection 'Microsoft.Cdn/profiles/securityPolicies@2025-12-01' = {
  parent: profile
  name: 'relay'
  properties: {
    parameters: {
      type: 'WebApplicationFirewall'
      wafPolicy: { id: firewall.outputs.resourceId }
      associations: [
        {
          domains: concat([{ id: endpoint.id }], empty(customDomain) ? [] : [{ id: domain.id }])
          patternsToMatch: ['/*']
        }
      ]
    }
  }
}

output url string = 'https://${empty(customDomain) ? endpoint.properties.hostName : customDomain}'
output domainValidation string = domain.?properties.?validationProperties.?validationToken ?? ''
output endpointHostName string = endpoint.properties.hostName
