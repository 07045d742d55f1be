"""More plain words for the values of a wording; names, jobs and topics in ``lexicon2.py``."""

# ruff: noqa: SIM905  (lists of words are written as words)
from __future__ import annotations

from scripts.demo_model.corpus.lexicon2 import FIRST_NAMES_MORE, JOBS_MORE, TOPICS

__all__ = [
    "ADJECTIVES_MORE",
    "FIRST_NAMES_MORE",
    "JOBS_MORE",
    "NOUNS_MORE",
    "TOPICS",
    "VERBS_MORE",
]

NOUNS_MORE = """
abbey accent accordion account acorn acrobat actor adventure adviser aeroplane agency agent airport
alarm album alley alligator almond alphabet altar amber ambulance ambition ankle anniversary answer
ant antelope anthem antique apartment apology apparatus appendix appetite applause appliance
appointment apprentice apricot apron aquarium arch archer architect arena argument arm armchair
armour arrow artichoke article artist ash asparagus aspirin assembly asteroid athlete atlas atom
attic auction audience aunt avalanche avenue avocado axe axle baboon baby bachelor backpack bacon
badge badger bagel baker balcony ball ballad ballet balloon ballot balm bamboo banana band bandage
bank banker banner banquet barber barge bark barn barrel barrier basin bassoon bat bath bathtub
baton bay bazaar beach beacon beak beam bean bear beard beaver bed bedroom bee beech beetle beggar
bell belt bench beret berry bet beverage bib bill billboard bin biography biology birch bird
birthday biscuit bishop blackberry blacksmith blade blazer blizzard block blog blossom blouse
blueberry blueprint boar board boat bobbin bodyguard boiler bolt bonfire bonnet bookcase bookmark
boot border boss bouquet boulder boundary bow bowl bowler box boxer bracelet bracket brain brake
branch brass breakfast breeze brewery brick bride bridle briefcase broccoli brochure bronze brooch
brook broom brother brush bubble bucket buckle bud buffet bug buggy bugle builder bulb bull
bulldozer bumper bun bundle bungalow bunker buoy bureau burger burrow bus bush butcher butler
butterfly button cab cabbage cabin cabinet cable cafe cage cake calendar camel cameo camp campaign
campfire campus can canal canary candidate candy cane cannon canoe canopy canteen canvas canyon cap
capital captain car caramel caravan card cardigan career caribou carnation carnival carol carpenter
carpet carriage carrot cart carton cartoon carver cashew cashier casino casserole cassette catalogue
caterpillar cathedral cauldron cave cedar ceiling celebration celery cell cellar cellist cement
census ceremony certificate chain chalet chalk challenge chamber champion chandelier chapel chapter
character charcoal charity chariot charm chart chauffeur cheetah chef cherry chess chest chestnut
chick chicken chimney chimpanzee chin chip chisel chocolate choir chorus chord christening cider
cinema cinnamon circle circuit circus citizen clam clamp clarinet class classroom claw clay cleaner
clerk client cliff climate climber clinic cloak clock closet cloth clove clown club clue coach coal
coast coat cobbler cobra cobweb cockpit coconut coin collar colleague collection collector college
colony colour column comb comedian comedy comet comic committee companion company compass
competition complaint composer compost concert conclusion condor conductor cone confession congress
constellation consul contest continent contraption convent conversation cook cooker cookie copper
coral cord cork corner cornet corridor costume cottage cotton couch counter country couple coupon
courier court courtyard cousin cow coyote crab cradle craft crane crate crayon cream creature creek
crew cricket crocodile crocus crop cross crossword crow crowd crown crumb crust crutch crystal cub
cube cucumber cuff culture cup cupboard curl currant curriculum curtain curve cushion custard custom
customer cyclist cylinder cymbal cypress dairy daisy dam dance dancer danger daughter dawn deal
debate debt decade deck decoration delay delegate delivery delta democracy den dentist department
deposit depot desert design dessert detective device dew dialect dialogue diary dictionary diet
dilemma dinner diploma diplomat discount discovery dish dishwasher disguise disk display district
ditch diver doctrine document doll dolphin dome donkey donor doorbell doormat doorway dormitory dot
dough dove dozen draught drawer drawing dream dress dresser drill drink driver driveway drone drop
drought drummer duchess duck duel duet dune duke dungeon dust duty duvet ear earring earthquake
easel eclipse editor eel effect effort egg elbow elder election electrician elevator elk elm embassy
emblem embroidery emerald emotion emperor empire employee employer encyclopedia enemy engineer
entrance envoy epidemic episode equator eraser errand error escalator essay estate evening event
evidence exam examiner excuse exercise exhibit exhibition exit expedition experiment expert
explanation explorer export express eye eyebrow fable fabric facade face factory fair fairy faith
falcon fan fare farm farmhouse fashion faucet favour fawn feast fee fence fern ferry festival fever
fiddle field fig fighter figure filter finch finger fingerprint fir firefly firefighter fireplace
firework fist flag flake flame flamingo flannel flask flat flavour flea fleece fleet flight flint
float flock flood floor florist flour flower fly foal fog foliage food football footpath footprint
forehead forge fork formula fort fortnight fortress fortune fossil fountain fowl fox fraction
fragment frame freckle freedom freezer freight friend friendship frieze fringe frog frost fruit
fudge fuel funnel fur furnace fuse future gadget gale gallery galley gamble game gangway garage
gargoyle garlic garment garnet garrison gas gasket gate gathering gauge gazelle gear gem generator
genius geologist gerbil gesture geyser giant gift gingerbread giraffe girl glass glider glimpse
globe glove glue glutton goal goalkeeper goat goblet goblin goldsmith gondola gong gooseberry gorge
gorilla gown grain granary grandmother grandfather granite grape grapefruit graph grass grasshopper
grater gravel gravy greenhouse greeting grid grill grocery groom grove guard guardian guess guest
guide guild gull gully gum gutter gymnast habit hair hairbrush hairdresser hairpin hamlet hammock
hamper hamster hand handbag handbook handkerchief handle handshake hangar hanger hare harmonica
harmony harness harp harpoon harvest hat hatch hatchet haven hawk hay hazard hazel hazelnut head
headache headband header headline headset heart heater heath heather hedge hedgehog heel heir
helicopter helmet helper hem hen herald herb herd heritage hermit heron hiker hill hinge
hippopotamus historian hive hobby hockey hoe holly home hood hook hoop horizon horn hornet horoscope
hose hospital host hostel hourglass household hub hull hunter hurdle hurricane husband hut hyacinth
hydrant hyena hymn ibis icicle icon idea idol igloo iguana illusion image immigrant incense income
index industry infant inflation ingredient inheritance inn innkeeper inspector institute instrument
insurance interview introduction invention inventor investor invitation iris irrigation ivory ivy
jackal jackdaw jackpot jaguar jam janitor jasmine javelin jaw jay jeep jelly jersey jester jet jetty
jigsaw job jockey joke journal journalist journey joy judo jug juggler juice jumper juniper jury
justice kangaroo kayak keeper keg kennel kernel kerosene kestrel keyhole kidney kiln kilt kimono
kingdom kingfisher kiosk kite kitten kiwi knapsack knee knight knob knot knuckle koala label
laboratory labour labyrinth lace lad ladle lady ladybird lagoon lake lamb lance landlord landmark
landscape lane language lantern lapel lapwing larch lard lark lasagne laser latch lathe laundry lava
lavender law lawn lawnmower lawsuit lawyer layer leaflet league leash leather lecture ledger leek
leg legend lemonade lens lentil leopard lesson lettuce level lever librarian library licence lid
lieutenant lifeboat lighthouse lightning lilac lily limb lime limerick limestone limousine linen
liner lion lip liquorice listener lizard llama lobby lobster lock locker locket locksmith locomotive
lodge lodger log loom loop lorry lotion lottery lotus lounge lullaby lumber lunch lung lynx lyre
macaroon machine magazine magician magistrate magnet magnolia magpie mahogany maid mailbox majority
mallet mammal manager mandarin mandolin manor mansion mantle manual manuscript map maple marathon
marble march margarine margin marigold marina marker marmalade marmot marriage marsh marten mask
mason massage mast mat match mattress maze mayor mead meadow meal meat mechanic medal medicine
melody melon member membership memoir memory menu merchant mermaid message metal meteor method metro
microphone microscope milk mill millennium miller mine miner mineral minister mink minstrel mint
miracle mission mistake mitten moat mole molecule monastery monk monkey monsoon monster monument
mood moor mop morning mortar mosaic moss motel moth mother motor motorbike motorcycle mound mouth
movie mud muffin mug mulberry mule muscle mushroom musician musket mussel mustard mystery myth nail
name nanny napkin narrator nation nature navigator navy neck necklace necktie nectar nectarine
neighbour nephew nerve net nettle network newspaper newt nickel niece nightfall nightgown
nightingale noise noodle noon norm nose nostril notary notice novelist nugget nun nurse nursery nut
nutcracker nutmeg nylon oak oar oat oath obelisk object oboe observatory obstacle occasion octopus
offer officer oil ointment olive omelette onion opal opera operator opinion opponent optician oracle
orator orbit orchard orchestra orchid order organ organist origin ornament orphan ostrich otter
outfit outline outpost overcoat owner oyster pace package packet paddle page pageant pail painting
palace palette palm pamphlet pan pancake pane panther pantry papaya paprika parachute parade
paradise paragraph parasol parcel pardon parent park parka parliament parrot parsley parsnip partner
partridge party passage passenger passport password pasta pastry pasture patch patent patient patio
patrol pattern pavement pavilion paw payment pea peace peach peacock peak peanut pear pearl peasant
pebble pecan pedal pedestrian peel pelican pen penalty pendant pendulum penguin peninsula pension
peppermint perch performance performer perfume period permit person petal petition petrol petticoat
pharmacy pheasant philosopher philosophy photograph photographer physician physicist piano pickle
picnic picture pie pier pig pigeon pilgrim pill pillar pillow pilot pin pine pineapple pioneer pipe
pirate piston pitcher pitchfork pizza plain plaster plate plateau platform platinum platter player
playground playwright plaza plot plough plum plumber plywood pocket pod poet poetry poker pole
policy poll pollen pond pony poodle pool poplar poppy porch porcupine porpoise porridge port porter
portfolio portion portrait postcard poster pot pottery pouch powder power prairie prawn prayer
preacher precinct prejudice premiere present president press pretzel price pride priest prince
princess principal printer prism prison prisoner privilege prize problem procession professor profit
project promise pronoun propeller prophet proposal protein protest proverb province prune pub
pudding puddle puffin pullover pulley pulpit pump pumpkin punch puppet puppy purchase purpose purse
puzzle pyramid python quail quarrel quarry quarter quartet quay quest question queue quill quince
quote raccoon race racer racket radar radiator radish raft rag rail railing railway rainbow raincoat
raisin rake rally ram ramp ranch ranger ransom rapier raspberry rat rattle raven ravine razor reader
reason receipt receiver reception record recorder rectangle referee reflection refrigerator refuge
refund region relative relic religion remedy renter reporter reptile republic rescue reservoir
resident resort response restaurant result retailer revolution reward rhinoceros rhubarb rhyme
rhythm rib ribbon rice riddle rider ridge ring riot ripple ritual rival roast robber robe robin
robot rod rodent roller romance rooster root rosary rose rosemary roster rotor roundabout route
rower rubber ruby rucksack rudder rug rugby ruin ruler rumour runner runway sack saddlebag safari
saffron sage sail saint salad salamander salary sale salon saloon salute sample sanctuary sand
sandal sandcastle sandpaper sandwich sapling sapphire sardine satchel satellite satin sauce saucepan
saucer sauna sausage saw sawmill saxophone scaffold scale scallop scandal scanner scarecrow scenery
sceptre scheme scholar scholarship schooner scientist scone scooter scorpion scout scrapbook screen
screw screwdriver script scroll sculptor sculpture scythe seagull seahorse seal seam seamstress
season seat seaweed secret secretary sedan seed seesaw semester senate senator sentence sentry
sequel sergeant serpent servant service sesame settlement settler sewer shack shark shawl shed shell
shelter shepherd sheriff shield shipwreck shipyard shirt shoe shoelace shoemaker shop shopkeeper
shore shoulder shovel shower shrine shrub shuttle sickle sidewalk siege sieve signal signature
silence silk sill singer sink siren sister sitar skate skeleton sketch ski skill skillet skin skirt
skunk skyscraper slate sleeve sleigh slice slide sling slipper slogan slope sloth slug smile smoke
smuggler snack snail snake sneaker snorkel snout soap soccer sock socket soda sofa soil soldier sole
soloist solution son sonata sonnet soprano sorbet soul soup source souvenir spade spaniel spanner
spark sparrow spatula speaker spear spectator speech speedboat spell sphere sphinx spice spider
spike spinach spine spire spirit sponge spool spoon sport spot spout spring sprinkler sprout spruce
spur spy squad square squash squirrel stable stadium stage stagecoach stain staircase stake
stalactite stall stallion stamp stapler star starling station statistic statue steak steam steel
steeple stem step stereo steward stick stirrup stocking stone stool stopwatch stork storm stove
strainer stranger strategy straw strawberry stream street stretcher strike string stripe student
studio subject submarine subway suburb success sugar suit suitcase sultan summit sunbeam sundial
sunflower sunset supermarket supper supplier surfboard surgeon surgery surname surprise survey
swallow swamp swan swarm sweater swimmer swing switch sword sycamore syllable symbol symphony
syringe syrup system tablecloth tablet tadpole tail tailor talent tambourine tangerine tank tanker
tap tapestry tar target tariff tart tattoo tavern taxi teapot teaspoon technique telegram telegraph
telephone telescope television temper temple tenant tennis tenor tent termite terrace terrier
territory test textbook thatch theatre theory therapist thicket thigh thimble thistle thorn thread
throne thrush thumb thunder ticket tide tile tiller timber timpani tin tissue toast toaster toboggan
toddler toe toffee tolerance toll tongue tonic tonsil tool toothbrush torch torrent tortoise tourist
tournament tractor trader tradition traffic tragedy trail trailer traitor tram trampoline transistor
translator trap trapeze traveller tray treasure treasurer treaty trellis trench trial triangle tribe
tribute tricycle trifle trombone trophy trowel truck trumpet trunk truth tub tuba tube tulip tumbler
tuna tundra tunic tunnel turban turbine turkey turnip turret turtle tusk tutor twig twin typewriter
typhoon tyre ukulele uniform university upholstery urchin urn usher utensil vaccine valet valve
vampire van vanilla vase vault veal vegetable vehicle veil vein velvet vendor venue veranda verb
verdict verse vessel vest vet viaduct vicar victory view villa villain vine vinegar vineyard vintage
viola viper virtue visitor vocabulary voice volleyball volume volunteer vote voucher voyage vulture
wafer waffle wage waist waistcoat waiter waitress wallet walnut walrus wand warden wardrobe
warehouse warning warrior wasp watch watchmaker waterfall watermelon wave wax weasel weaver web
website wedding weed weight well whale wheelbarrow wheelchair whip whisk whisker whistle wick widow
wig wigwam willow windmill windscreen wine wing winner wish witch witness wizard wombat wonder
woodpecker wool worker workshop worm wound wreath wreck wren wrench wrestler wrinkle wrist writer
yard yeast yogurt yolk youth zeppelin zinc zipper zone zoologist
""".split()

ADJECTIVES_MORE = """
able absent absurd abundant academic accurate acidic active actual adorable adult adventurous
affordable agile airy alert alien alive amateur amazing ample amusing ancestral angry animated
annual anonymous anxious apparent aquatic arctic aromatic arrogant artificial artistic ashen
athletic atomic attractive automatic available average awake awful awkward azure baggy balanced bald
bare baroque basic bearable beautiful beige beloved beneficial best better bilingual bizarre black
bland blank bleak blond blunt blurred bold boring botanical bouncy brazen brief brilliant brisk
brittle bronze brown bubbly bulky bumpy burnt bushy busy calm candid capable careful careless
carefree caring casual cautious celestial central ceramic certain charming chatty cheeky cheerful
chic chief childish chilly circular civic civil classic classical clean clear clinical clumsy coarse
coastal colonial colourful comfortable comic common compact complete complex complicated confident
confused conical constant contemporary content convenient cordial corporate correct cosmic costly
cosy cotton courteous covert crafty cramped crazy creamy creative creepy crimson crisp critical
crooked crowded crucial crude cruel crunchy cubic cultural cunning curious curly current custom cute
cyclic daily dainty damp daring dated dazzling dear decent decisive decorative deep defective
delicate delicious delightful dense dental dependable desperate detailed determined devoted digital
diligent dim diplomatic direct dirty discreet distant distinct diverse divine dizzy domestic
dominant double dramatic drab dreadful dreamy drowsy dual dull durable dusty dynamic eager earnest
eastern easy eccentric economic edible educated eerie efficient elastic elderly electric elegant
eligible eloquent elusive emerald eminent emotional enchanted endless energetic enormous entire
envious epic equal essential eternal ethical even everyday evident exact excellent exceptional
exciting exclusive exotic expensive experienced expert explicit exquisite extensive external extra
extraordinary extreme fabulous faded faint fair faithful false familiar fancy fantastic fashionable
fast faulty favourite fearless federal feeble fertile festive feudal fickle fictional fiery fierce
filthy final fine firm fiscal fit fixed flaky flamboyant flashy flat flawless flexible floating
floral fluffy fluent folding fond foolish foreign forgetful formal former fortunate foul fragile
fragrant frail frank free frequent fresh friendly frightened frosty frozen frugal fruity frustrated
fulfilled funny furious furry fussy futuristic fuzzy gallant gaudy generic generous genuine giant
gifted gigantic gilded glad glamorous glassy gleaming gloomy glorious glossy good gorgeous graceful
gracious gradual grand granular grateful grave greasy great greedy gregarious grey grim gritty
groovy grubby grumpy guilty gullible hairy handmade handsome handy happy hard hardy harmless harsh
hasty haunted hazy healthy hearty hefty helpful helpless herbal heroic hesitant high hilarious hilly
historic hollow holy homely homemade hopeful horizontal horrible hospitable hostile huge human
humble humid humorous hungry hybrid icy ideal identical idle idyllic ignorant illegal illustrated
imaginary imaginative immature immense imminent immune impatient imperfect imperial important
impressive improbable inadequate inclusive incomplete incredible indirect indoor industrial
inexpensive infamous infinite informal inherent initial inland inner innocent innovative insecure
instant insulated intact intelligent intense interactive interesting internal international
intricate invisible inviting ironic irregular itchy ivory jaded jagged jealous jolly jovial joyful
joyous jubilant juicy jumbo junior juvenile keen kind knitted knotty known lanky lasting lavish
lawful lazy leafy lean learned leather left legal legendary legitimate level lilac limp lined liquid
literary lively logical lonely long loose lopsided lost loud lovable lovely low loyal lucky lukewarm
luminous lumpy lunar lush luxurious lyrical magic magical magnetic magnificent main majestic major
manual marble marine maritime married marvellous massive mature meagre meaningful meaty mechanical
medical medieval mediocre medium mellow melodic memorable merry messy metallic meticulous mighty
mild military miniature minimal minor misty mixed mobile moderate modest moist monthly monumental
moody moral mossy motionless mountainous movable muddy muffled multiple municipal murky muscular
musical mute mutual mysterious mythical naive nasty national native natural naughty nautical naval
neat necessary needy negative nervous neutral nifty nimble noble nocturnal noisy nomadic normal
nostalgic notable noted novel numb numerous nutritious nutty obedient oblong obscure obsolete
obvious occasional odd official oily opaque open optical optimistic optional oral orderly ordinary
organic original ornamental ornate orthodox outdoor outer outgoing outrageous oval overdue overgrown
overseas painful painless pale parallel partial passionate passive pastel patient patriotic peaceful
peculiar perfect periodic permanent perpetual personal petite phantom physical picturesque pink
pious placid plain playful pleasant pleated plump plush poetic pointed poisonous polar polite
political poor popular porous portable posh positive possible potent powdered powerful practical
precious precise prehistoric premium pretty previous priceless prickly primary prime primitive
principal private probable productive professional profound prominent promising prompt proper
prosperous proud provincial prudent psychic public puffy punctual pungent pure purple puzzled quaint
qualified quarterly quirky quotable radiant radical ragged rainy random rapid rare rational raw
ready real realistic rebellious recent reckless rectangular refined refreshing regal regional
regular relaxed relevant reliable religious reluctant remarkable remote removable renewable renowned
repetitive resilient resistant resolute respectful responsible restless reusable reversible rich
ridiculous righteous rigid ripe risky ritual robust romantic rosy rotten rough rowdy royal rude
rugged ruined rural rustic ruthless sacred sad safe salty sane sandy sarcastic sassy satisfied
savoury scarce scarlet scary scenic scented sceptical scholarly scientific scornful scratchy scruffy
seasonal secluded secondary secret secure selfish senior sensible sensitive sentimental separate
serene serious severe shabby shady shaggy shallow shiny short shy silent silky silly similar sincere
single sizeable skilful sleek sleepy slender slick slight slim slimy slippery sloppy sly smart smoky
smooth snappy sneaky snobbish snowy snug sober sociable social solar sole solemn solid solitary
sophisticated sore sour spacious spare sparkling sparse special specific spectacular spherical spicy
spiky spiral spirited spiritual splendid spontaneous spooky sporty spotless spotted square squeaky
stable stale standard starry static steady steep sterile sticky stiff stingy stocky stolen stony
stormy stout straight strategic strict striking striped strong stubborn studious stunning sturdy
stylish suave subtle suburban successful sudden suitable sunken superb superior supple supreme sure
surplus surprising suspicious swampy sweaty swift symbolic symmetrical sympathetic synthetic
systematic tacky tactful talented talkative tall tame tangled tangy tart tasteful tasty tattered
technical tedious temporary tempting tender tense terrible terrific theatrical thick thin thirsty
thorny thorough thoughtful thrifty thrilling tidy tight timeless timid tiny tired toxic traditional
tragic tranquil transparent tremendous tribal trendy tricky trim triumphant trivial tropical true
trusty truthful tubular turbulent turquoise twin twisted typical ugly ultimate unanimous uncanny
uncertain uncommon underground uneasy uneven unfair unfamiliar unfinished unforgettable unhappy
unique united universal unknown unlikely unlucky unreal unstable unusual unwritten upbeat upper
upright upset urban useful useless usual vacant vague vain valid valuable vanilla various vast vegan
velvet verbal versatile vertical viable vibrant vicious victorious vigilant vigorous vintage violet
virtual virtuous visible visual vital vivid vocal volatile voluntary voracious vulnerable wary
wasteful watchful waterproof watery wavy waxy weak wealthy weary weathered weekly weird western wet
whimsical white wholesome wicked willing wily wintry wiry wise wistful witty wobbly wonderful woolly
wordless worldly worn worried worthy woven wretched wrinkled wrong yearly yellow young youthful
yummy zany zealous zesty
""".split()

VERBS_MORE = """
abandon absorb accept accompany accuse achieve acknowledge acquire activate adapt adjust admire
adopt adore advertise advise align alter amend amuse analyse announce annoy anticipate appraise
approach approve arrange assemble assess assist attach attract auction authorise avoid award balance
ban bandage bathe beautify befriend bend bind blame bleach blend bless block boil book borrow bottle
bounce braid brand break breed brush bury buy calibrate calm cancel capture carry cast catch
celebrate chair challenge charm chase check chill chop circle clarify classify clear clip clone coat
coax collect colour comb combine comfort compare compile complete compose compost conceal confirm
confuse conquer conserve consider construct consult contact control copy correct cover crack create
criticise crochet cross crown crush cultivate cure curl cut damage damp darken dazzle debate debug
deceive declare decorate defeat defend define delay delete deliver demolish deny describe deserve
design destroy detach detect develop diagnose discard discover discuss disguise dismantle dismiss
display dissolve distract distribute disturb dominate donate double drag drain drape dress drill
drive drop dry duplicate dust dye earn eat edit educate eject embrace embroider employ empty enchant
encourage endorse engrave enhance enjoy enlarge enter entertain equip erase erect escort establish
estimate evacuate evaluate evict examine exceed exchange execute exhibit expand explain explore
export expose extend extinguish fasten ferment fetch fill film filter finance find finish flatten
flatter flip float flood follow forbid forge forget forgive format found frame freeze frighten fry
fumigate furnish garnish gather glaze glorify glue govern grab grade graft grasp grate grease greet
grill grind grip groom guard guess guide handle hang harness harvest haul heal heat help hide hire
hoist hold honour hook host hug humidify hunt identify ignite ignore illuminate illustrate imagine
imitate import impress improve improvise include increase inflate influence inform inhabit inherit
initiate inject insert inspect inspire install insulate insure interpret interrupt interview
introduce invade invent invest investigate invite iron irrigate isolate join judge juggle justify
keep kindle knead knock knot label lace launch lay lead learn lease leave lend lengthen level
license lick lift light like link load locate lock loosen love lower lubricate magnify maintain make
manage manufacture marinate mark market marry mash massage master match mechanise melt memorise mend
merge microwave milk mimic mince mirror miss mix mobilise mock modernise modify monitor mould mount
move mow nail name navigate need negotiate neutralise nominate notice notify nourish nurse nurture
obey observe obstruct obtain occupy offer oil operate oppose order organise outline outsmart
overcome overhaul overlook own pacify paddle park patch patent pave peel perforate perform permit
persuade photograph pick pickle pierce pin pinch pitch place plan plaster play pluck poach point
postpone pour praise predict prefer prepare present preserve press prevent price process produce
programme prohibit promote pronounce propose prove provide prune publish puncture purchase purify
pursue push question quit quote raise rake rank rate reach rearrange rebuild recall receive recharge
recite recognise recommend reconcile record recover recruit recycle redecorate reduce refill refine
reform refuse refute register regret regulate reheat reinforce reject relax release relocate
remember remind remove rename renew renovate rent reorganise replace report represent reproduce
request rescue resemble reserve resist respect restore restrict retain retrieve return reuse reveal
reverse review revise revive reward rewrite rinse roast rock roll rotate row ruin rule run sack
saddle salute salvage sample sand sanitise satisfy saw scan scare scatter schedule scold scrape
scratch screen scrub sculpt seal season secure select separate serve settle sew shake share shave
shelter shield shift shine shock shorten shred shrink shut sieve sign silence simmer simplify sing
sink skip slice smash smell smoke soak solve sort spare spell spend spice spill spin splash split
spoil sponsor spot spray spread sprinkle squash squeeze stabilise stack staff stage stain stamp
staple start steam steer sterilise stick stimulate sting stir stitch stop straighten strain
strengthen stretch strike string strip stroke study stuff submit substitute suggest summarise summon
supervise supply support suppress survey suspect swallow swap sweep sweeten swing switch tackle
tailor tame tap taste tattoo tax tease tempt test thank thaw thicken thin throw tickle tie tighten
tilt toast tolerate topple toss touch tow trace track trade translate transmit transplant transport
trap treat trick trigger trim trust twist type unblock uncover understand undo unfold unify unload
unlock unpack untangle unveil unwrap update upgrade uphold upholster upset urge use vacuum validate
value vary veil ventilate verify visit visualise wake want warm warn water wax weaken wear weave
weed weigh welcome weld whip whisk whisper whistle widen win wind wipe wire witness worship wrap
wreck yank yield zip
""".split()
