// A token that is entered here stays in the memory of this page.
SwaggerUIBundle({
  url: 'openapi.json',
  dom_id: '#description',
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null,
});
