"""StarRocks and Doris, and what they share: both speak MySQL's protocol and grew from one tree."""
