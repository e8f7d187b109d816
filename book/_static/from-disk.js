/* Browsers let no page read files beside it: without a server search shows titles alone. */
if (location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
