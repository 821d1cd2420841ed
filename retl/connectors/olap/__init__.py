"""What StarRocks and Doris share: both speak MySQL's protocol and grew from one tree."""
