"""Problems and answers as files that any language reads and writes; what comes from outside is not trusted."""
