"""HAMi's wire: the annotations by which its scheduler and its node agents talk.

Written is what version 2.8 reads, read is what 2.4 to 2.10 write. Every decoder takes text that a
stranger may have written, and answers with a frozen value or an `AnnotationError`, nothing else.
"""
