-- A schema for each service. The tables of effects take anything twice and in any order, so that a consumer which did
-- something twice would be found out; `at` is the order in which it was done.

CREATE SCHEMA orders;
CREATE TABLE orders.placed (
    number   bigserial PRIMARY KEY,
    event    uuid      NOT NULL,
    customer text      NOT NULL,
    sku      text      NOT NULL,
    quantity integer   NOT NULL,
    cents    bigint    NOT NULL
);

CREATE SCHEMA inventory;
CREATE TABLE inventory.stock (sku text PRIMARY KEY, free bigint NOT NULL CHECK (free >= 0));
INSERT INTO inventory.stock SELECT 'sku-' || i, 1000000 FROM generate_series(0, 11) AS i;
CREATE TABLE inventory.reservation (
    at       bigserial PRIMARY KEY,
    number   bigint    NOT NULL,
    customer text      NOT NULL,
    sku      text      NOT NULL,
    quantity integer   NOT NULL
);

CREATE SCHEMA loyalty;
CREATE TABLE loyalty.balance (customer text PRIMARY KEY, points bigint NOT NULL);
CREATE TABLE loyalty.booking (
    at       bigserial PRIMARY KEY,
    number   bigint    NOT NULL,
    customer text      NOT NULL,
    points   bigint    NOT NULL
);

CREATE SCHEMA recommendation;
-- The one that has to bear repetitions.
CREATE TABLE recommendation.bought (
    at       bigserial NOT NULL,
    number   bigint    PRIMARY KEY,
    customer text      NOT NULL,
    sku      text      NOT NULL
);

CREATE SCHEMA warehouse;
CREATE TABLE warehouse.parcel (at bigserial PRIMARY KEY, number bigint NOT NULL, customer text NOT NULL);

CREATE SCHEMA fraud;
CREATE TABLE fraud.audit (
    at       bigserial PRIMARY KEY,
    number   bigint    NOT NULL,
    customer text      NOT NULL,
    flagged  boolean   NOT NULL
);
