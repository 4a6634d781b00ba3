"""VOSpace 2.1 and UWS 1.1 as clients use them: vocabulary, documents, and an asynchronous client of Cavern."""
