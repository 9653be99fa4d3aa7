// What `azd up` deploys when only the target is given.
using '../main.bicep'

param environmentName = 'snapshot'
param location = 'westeurope'
param dynamicsUrl = 'https://contoso.operations.dynamics.com/data/OAuthCallbacks'
